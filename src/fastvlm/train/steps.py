"""What happens between the steps of the Trainer: order of samples, average of weights, stopping on request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import torch
from accelerate import PartialState
from torch.utils.data import Sampler
from transformers import TrainerCallback

from fastvlm.data.mixture import Order, Place
from fastvlm.train.average import WeightAverage


class EpochOrder(Sampler[Place]):
    """Places of an epoch's records in the order that `order(epoch)` gives, rearranged while it is read.

    The epoch is set by `Steps` and not by the data loader, whose wrappers do not all pass it on.
    """

    def __init__(
        self,
        order: Callable[[int], Order],
        arrange: Callable[[Order], Iterator[Place]] = iter,
    ) -> None:
        self._order = lru_cache(maxsize=1)(order)  # its length is asked for again and again
        self._arrange = arrange
        self.epoch = 0

    def __iter__(self) -> Iterator[Place]:
        return self._arrange(self._order(self.epoch))

    def __len__(self) -> int:
        return len(self._order(self.epoch))


class Steps(TrainerCallback):
    """Called by the Trainer.

    Args:
        order: told which epoch it is.
        average: taken on after every step; None for none.
        should_stop: asked after every step. With several processes, one that wants to stop stops all at the same
            step, or the others would wait for it.
    """

    def __init__(
        self, order: EpochOrder, average: WeightAverage | None, should_stop: Callable[[], bool]
    ) -> None:
        self._order, self._average, self._should_stop = order, average, should_stop
        self.was_stopped = False

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._order.epoch = int((state.epoch or 0.0) + 1e-6)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._average is not None:
            self._average.update(state.global_step)
        is_last = state.global_step >= state.max_steps
        if is_last:
            control.should_save = True
        elif self._is_asked_to_stop():
            self.was_stopped = True
            control.should_save = control.should_training_stop = True
        if control.should_save:
            # A line ends where a resumed run would begin its next one.
            control.should_log = True

    def _is_asked_to_stop(self) -> bool:
        processes = PartialState()
        is_asked = self._should_stop()
        if processes.num_processes == 1:
            return is_asked
        flag = torch.tensor(float(is_asked), device=processes.device)
        torch.distributed.all_reduce(flag)
        return bool(flag)
