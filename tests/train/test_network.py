"""The loss: what it is summed over, who sees whom, and what stays frozen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvlm.data.samples import BrokenSample
from fastvlm.inputs import IGNORE_INDEX, ModelInputs
from fastvlm.messages import Message, user_message
from fastvlm.processing.processor import Processor
from fastvlm.processing.tokenizer import Tokenizer
from fastvlm.train.average import WeightAverage
from fastvlm.train.collate import Collator, first_fit
from fastvlm.train.network import TuningNetwork, checkpoint_activations
from fastvlm.train.parts import choose_trained, list_parts, optimizer_groups, part_of
from fastvlm.train.settings import TuneSettings
from fastvlm.train.utilization import Utilization
from tiny_models import random_model, tiny_config

RNG = np.random.default_rng(0)


def answer(text: str) -> Message:
    return Message.from_text("assistant", text)


def picture(height: int = 64, width: int = 64) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def samples(small_tokenizer: Tokenizer) -> list[ModelInputs]:
    config = replace(tiny_config(), image_size=128, image_mode="native")
    processor = Processor(config, small_tokenizer)
    conversations = [
        [user_message("What is it?", picture()), answer("A red circle.")],
        [
            user_message("And here?", picture(64, 128), picture()),
            answer("Two."),
            user_message("Sure?"),
            answer("Yes."),
        ],
        [user_message("Hello"), answer("Hi there, what can I do?")],
        [user_message("Large?", picture(128, 128)), answer("It is.")],
    ]
    return [processor(messages, with_labels=True) for messages in conversations]


def make_network(**options: bool) -> TuningNetwork:
    return TuningNetwork(random_model(tiny_config(), dtype=torch.float64), **options)


def as_double(batch: dict) -> dict:
    batch.pop("broken")
    return batch | {"pixel_values": [pixels.double() for pixels in batch["pixel_values"]]}


def run(network: TuningNetwork, samples: list, *, packing: bool = False, **options: int) -> dict:
    batch = as_double(Collator(max_length=400, packing=packing)(samples))
    return network(**batch, **options)


def test_the_loss_is_the_mean_over_answer_tokens(samples: list[ModelInputs]) -> None:
    network = make_network().eval()
    total, count = torch.zeros((), dtype=torch.float64), 0
    for one in samples:
        features = [
            network.model.encode_images(torch.from_numpy(p).double()).flatten(0, 1)
            for p in one.pixel_values
        ]
        ids = torch.from_numpy(one.input_ids)[None]
        logits = network.model.lm_head(
            network.model(ids, torch.cat(features) if features else None)
        )
        labels = torch.from_numpy(one.labels)[1:]
        total = total + F.cross_entropy(logits[0, :-1].float(), labels, reduction="sum")
        count += int((labels != IGNORE_INDEX).sum())
    out = run(network, samples)
    assert int(out["num_targets"]) == count
    torch.testing.assert_close(out["loss"].double(), total / count, rtol=1e-6, atol=0)


def test_packed_samples_do_not_see_each_other(samples: list[ModelInputs]) -> None:
    network = make_network().eval()
    padded, packed = run(network, samples), run(network, samples, packing=True)
    assert len(Collator(400, packing=True)(samples)["input_ids"]) == 1
    # float64 but for the loss itself, which is float32 by design
    torch.testing.assert_close(padded["loss"], packed["loss"], rtol=1e-6, atol=0)
    assert padded["num_correct"] == packed["num_correct"]
    gradients = []
    for packing in (False, True):
        network.zero_grad()
        run(network, samples, packing=packing)["loss"].backward()
        gradients.append({n: p.grad.clone() for n, p in network.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-7, msg=name)


def test_changing_one_packed_sample_leaves_the_others_alone(samples: list[ModelInputs]) -> None:
    network = make_network().eval()
    batch = as_double(Collator(400, packing=True)(samples))
    changed = dict(batch)
    is_first = batch["segment_ids"] == 1
    changed["input_ids"] = torch.where(
        is_first & (batch["input_ids"] >= 0), (batch["input_ids"] + 5) % 600, batch["input_ids"]
    )
    others = ~is_first
    labels = torch.where(others, batch["labels"], IGNORE_INDEX)
    left = network(**batch | {"labels": labels})
    right = network(**changed | {"labels": labels})
    assert torch.equal(left["loss"], right["loss"])


def test_accumulated_steps_give_the_gradient_of_one(samples: list[ModelInputs]) -> None:
    network = make_network().eval()
    run(network, samples)["loss"].backward()
    expected = {name: p.grad.clone() for name, p in network.named_parameters()}
    num_targets = int(run(network, samples)["num_targets"])
    network.zero_grad()
    for half in (samples[:1], samples[1:]):
        run(network, half, num_items_in_batch=num_targets)["loss"].backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-7, msg=name)


def test_recomputed_activations_give_the_same_gradients(samples: list[ModelInputs]) -> None:
    network, recomputing = make_network(), make_network()
    checkpoint_activations(recomputing.model)
    for one in (network, recomputing):
        run(one.train(), samples)["loss"].backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(recomputing.get_parameter(name).grad, parameter.grad, msg=name)


def test_recomputing_reaches_tower_and_decoder() -> None:
    network = make_network()
    before = {name: id(m.forward) for name, m in network.named_modules()}
    checkpoint_activations(network.model)
    changed = {n for n, m in network.named_modules() if "forward" in vars(m)}
    assert before
    assert any(name.startswith("model.vision_tower.stages.4.blocks") for name in changed)
    assert {f"model.language_model.layers.{i}" for i in range(2)} <= changed


def test_batch_norms_stay_as_they_are_unless_asked(samples: list[ModelInputs]) -> None:
    for updates in (False, True):
        network = make_network(update_batch_norm=updates).train()
        before = {n: b.clone() for n, b in network.named_buffers() if "running" in n}
        run(network, samples)
        is_moved = [not torch.equal(network.get_buffer(n), b) for n, b in before.items()]
        assert len(is_moved) > 3
        assert all(is_moved) if updates else not any(is_moved)


def test_a_batch_without_pictures_still_reaches_the_vision_parameters(
    samples: list[ModelInputs],
) -> None:
    network = make_network().eval()
    run(network, [samples[2]])["loss"].backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        if part_of(name) != "language_model":
            assert not parameter.grad.any(), name


def test_a_batch_without_pictures_teaches_batch_norms_nothing(samples: list[ModelInputs]) -> None:
    network = make_network(update_batch_norm=True).train()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    run(network, [samples[2]])["loss"].backward()
    for name, buffer in network.named_buffers():
        assert torch.equal(buffer, before[name]), name
    assert all(module.training for module in network.modules())


def test_the_first_token_of_a_packed_sample_is_not_learned_from_the_sample_before() -> None:
    ids = np.arange(1, 7)
    caption = ModelInputs(ids, (), (), labels=ids.copy())  # as conv mode plain lays out a text
    labels = Collator(16, packing=True)([caption, caption])["labels"]
    assert labels.tolist() == [[IGNORE_INDEX, 2, 3, 4, 5, 6] * 2]


def test_a_batch_of_broken_samples_has_no_loss() -> None:
    broken = BrokenSample("train.json, record 3", "no such file")
    batch = Collator(400)([broken, broken])
    assert batch["broken"] == [broken, broken]
    out = make_network()(**as_double(batch))
    assert out["loss"] == 0
    assert out["num_targets"] == 0
    out["loss"].backward()


def test_broken_samples_leave_their_batch(samples: list[ModelInputs]) -> None:
    network = make_network().eval()
    broken = BrokenSample("train.json, record 3", "no such file")
    assert torch.equal(
        run(network, [samples[0], broken, samples[1]])["loss"], run(network, samples[:2])["loss"]
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_rows_hold_every_sample_once_and_fit(lengths: list[int]) -> None:
    rows = first_fit(lengths, 50)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in row) <= 50 for row in rows)


class TestParts:
    def test_only_chosen_parts_are_trained(self) -> None:
        network = make_network()
        chosen = TuneSettings(train_vision_tower=False, train_language_model=False)
        choose_trained(network, chosen)
        for name, parameter in network.named_parameters():
            assert parameter.requires_grad == (part_of(name) == "projector"), name
        rows = {row.group: row for row in list_parts(network, chosen)}
        assert rows["vision_tower"].trained == rows["language_model"].trained == 0
        assert rows["projector"].trained == rows["projector"].parameters > 0

    def test_every_part_has_its_rate_and_only_matrices_decay(self) -> None:
        network = make_network()
        wanted = TuneSettings(
            learning_rate=1e-4,
            projector_learning_rate=1e-3,
            vision_learning_rate=1e-5,
            weight_decay=0.1,
        )
        choose_trained(network, wanted)
        names = {id(p): name for name, p in network.named_parameters()}
        seen = set()
        for group in optimizer_groups(network, wanted):
            for parameter in group["params"]:
                name = names[id(parameter)]
                seen.add(name)
                expected = {"projector": 1e-3, "vision_tower": 1e-5}.get(part_of(name), 1e-4)
                assert group["lr"] == expected, name
                is_plain = name.endswith((".bias", ".gamma")) or "norm" in name or ".bn." in name
                assert group["weight_decay"] == (0.0 if is_plain else 0.1), name
        assert seen == set(names.values())

    def test_frozen_parameters_are_in_no_group(self) -> None:
        network = make_network()
        chosen = TuneSettings(train_vision_tower=False)
        choose_trained(network, chosen)
        grouped = {id(p) for group in optimizer_groups(network, chosen) for p in group["params"]}
        frozen = {id(p) for n, p in network.named_parameters() if part_of(n) == "vision_tower"}
        assert grouped
        assert not grouped & frozen


def test_the_average_follows_the_weights() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    average = WeightAverage(layer, 0.9)
    with torch.no_grad():
        layer.weight.fill_(2.0)
    average.update(step=1000)
    average.update(step=1001)
    expected = 2 - 0.9**2
    assert average.tensors["weight"].item() == pytest.approx(expected)
    with average.applied():
        assert layer.weight.item() == pytest.approx(expected)
    assert layer.weight.item() == 2.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the network moves to a GPU")
def test_the_average_moves_with_the_network() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    average = WeightAverage(layer, 0.9)
    layer.cuda()
    average.update()
    assert average.tensors["weight"].is_cuda


def test_weights_in_4_bits_count_as_many_flops() -> None:
    network = make_network().float()
    cpu = torch.device("cpu")
    plain = Utilization.of(network, 64, cpu, is_bf16=False)
    for module in network.model.language_model.layers.modules():
        if isinstance(module, torch.nn.Linear):
            halves = torch.zeros(module.weight.numel() // 2, 1, dtype=torch.uint8)
            module.weight = torch.nn.Parameter(halves, requires_grad=False)
    packed = Utilization.of(network, 64, cpu, is_bf16=False)
    assert packed.per_token == plain.per_token


TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=20
).filter(lambda text: text.strip() != "")


@settings(max_examples=1000, deadline=None)
@given(
    turns=st.lists(st.tuples(TEXT, TEXT, st.integers(0, 2)), min_size=1, max_size=4), data=st.data()
)
def test_exactly_the_answers_and_their_end_marks_are_learned(
    small_tokenizer: Tokenizer, turns: list[tuple[str, str, int]], data: st.DataObject
) -> None:
    processor = Processor(replace(tiny_config(), image_size=64), small_tokenizer)
    prepared = processor.prepare_image(np.zeros((4, 4, 3), np.uint8))
    messages: list[Message] = []
    for question, reply, num_pictures in turns:
        messages += [user_message(question, *[prepared] * num_pictures), answer(reply)]
    inputs = processor(messages, with_labels=True)
    assert inputs.labels is not None
    learned = inputs.labels[inputs.labels != IGNORE_INDEX]
    line_end = small_tokenizer.encode("\n")
    expected = [
        token
        for _, reply, _ in turns
        for token in [*small_tokenizer.encode(reply), small_tokenizer.im_end_id, *line_end]
    ]
    assert learned.tolist() == expected
    is_learned = inputs.labels != IGNORE_INDEX
    assert (inputs.input_ids[is_learned] == learned).all()
