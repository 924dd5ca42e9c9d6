"""Conversations packed behind one picture give the numbers of separate sequences."""

import pytest
import torch

from fastvlm.config import preset
from fastvlm.data.synthetic.questions import Question
from fastvlm.inputs import IGNORE_INDEX, IMAGE_TOKEN_ID
from fastvlm.messages import Message, user_message
from fastvlm.model.fastvlm import FastVLM
from fastvlm.processing.chat_template import ImageSegment, render
from fastvlm.train.scratch.answer_objective import Packer, answer_weights, block_mask
from fastvlm.train.scratch.nano_tokenizer import VOCAB_SIZE

RED = Question("colour", "What color is the circle?", "The circle is red.")
COUNT = Question("count", "How many shapes are there?\nAnswer in one word.", "3")
WHERE = Question("where", "Where is it?", "It is in the middle.")


def test_the_tokenizer_fits_the_network_and_knows_the_words(tokenizer) -> None:
    config = preset("nano")
    assert tokenizer.vocab_size == VOCAB_SIZE < config.text.vocab_size
    assert config.text.eos_token_id == tokenizer.im_end_id
    assert config.text.bos_token_id == tokenizer.endoftext_id
    assert len(tokenizer.encode("The purple diamond is at the bottom left.")) == 9


@pytest.mark.parametrize("text", ["naïve 漢字 🙂\r\n\t", "<|im_end|>", "", "  42  "])
def test_the_tokenizer_reads_back_any_text(tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_packed_conversations_equal_separate_ones(tokenizer) -> None:
    torch.manual_seed(0)
    model = FastVLM(preset("nano")).eval()
    packer = Packer(tokenizer, 9)
    dialogues = [[(RED,), (COUNT, WHERE)], [(COUNT,), (RED,), (RED, WHERE)]]
    batch = packer.pack(dialogues)
    features = torch.randn(2, 9, 192)
    assert len(batch.picture_ids) > 2  # some conversations went into a second row
    with torch.inference_mode():
        packed = model(
            batch.input_ids,
            features[batch.picture_ids],
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
        )
        for picture, of_one in enumerate(dialogues):
            for dialogue, (row, block) in zip(of_one, batch.slots[picture], strict=True):
                one = packer.render(dialogue)
                ids = torch.tensor([[*one.prefix, *[IMAGE_TOKEN_ID] * 9, *one.ids]])
                alone = model(ids, features[picture : picture + 1])[0, len(one.prefix) + 9 :]
                inside = packed[row][batch.block_ids[row] == block]
                # float32; sums run in another order
                assert torch.allclose(inside, alone, atol=2e-5)


def test_what_is_trained_is_what_inference_renders(tokenizer) -> None:
    one = Packer(tokenizer, 9).render((RED, WHERE))
    asked = render(
        [
            user_message(RED.question, "picture.png"),
            Message.from_text("assistant", RED.answer),
            Message.from_text("user", WHERE.question),
        ],
        tokenizer,
    )
    ids = [token for part in asked if not isinstance(part, ImageSegment) for token in part.ids]
    assert [*one.prefix, *one.ids][: len(ids)] == ids


def test_labels_are_the_answers_with_their_ends(tokenizer) -> None:
    one = Packer(tokenizer, 9).render((COUNT,))
    learned = [label for label in one.labels if label != IGNORE_INDEX]
    assert learned == [*tokenizer.encode("3"), tokenizer.im_end_id, *tokenizer.encode("\n")]
    assert one.ids[-len(learned) :] == tuple(learned)


def test_a_conversation_sees_the_prefix_and_itself_only() -> None:
    blocks = torch.tensor([[0, 0, 1, 1, 2, -1]])
    expected = torch.tensor(
        [
            [1, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0],
            [1, 1, 1, 0, 0, 0],
            [1, 1, 1, 1, 0, 0],
            [1, 1, 0, 0, 1, 0],
            [1, 1, 0, 0, 0, 1],
        ]
    ).bool()
    assert torch.equal(block_mask(blocks)[0, 0], expected)


def test_long_answers_weigh_less_by_the_exponent(tokenizer) -> None:
    batch = Packer(tokenizer, 9).pack([[(COUNT,), (RED,)]])
    row = batch.labels[0] != IGNORE_INDEX
    for _, block in batch.slots[0]:
        is_own = row & (batch.block_ids[0] == block)
        assert torch.allclose(answer_weights(batch, 0.5)[0][is_own], is_own.sum() ** -0.5)
        assert (answer_weights(batch, 0.0)[0][is_own] == 1).all()
