import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_alignprune.audit.exhibits import exhibit_of

SHAPES = {
    "tensor": torch.rand(3, 16, 24),
    "grey tensor": torch.randn(1, 16, 24),
    "flat tensor": torch.rand(16, 24),
    "array": np.zeros((16, 24, 3), dtype=np.uint8),
    "transparent": torch.rand(4, 16, 24),
    "PIL": Image.new("RGB", (24, 16)),
}


def opened(exhibit):
    data = exhibit.picture.removeprefix("data:image/png;base64,")
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.mark.parametrize("kind", SHAPES)
def test_an_image_of_any_kind_is_a_picture(kind):
    width, height = opened(exhibit_of([(SHAPES[kind], 3)], 0)).size
    assert width / height == 24 / 16


def test_the_first_part_that_can_be_shown_is():
    assert exhibit_of([{"id": 7, "text": "two\nwords", "label": 1}], 0).text == "two words"
    assert exhibit_of(["a whole item"], 0).text == "a whole item"


def test_a_large_picture_is_made_small_and_a_long_text_short():
    assert max(opened(exhibit_of([torch.rand(3, 900, 600)], 0)).size) <= 224
    assert len(exhibit_of(["word " * 1000], 0).text) <= 400


def test_what_is_nothing_to_look_at_gives_nothing():
    for item in ((torch.rand(64), 1), {"label": 2}, [1, 2, 3]):
        assert exhibit_of([item], 0) == (None, None)


def test_values_that_are_no_numbers_make_no_picture_fail():
    assert exhibit_of([torch.full((2, 8, 8), torch.nan)], 0) == (None, None), "two channels"
    opened(exhibit_of([torch.full((8, 8), torch.nan)], 0))


def test_random_states_are_as_before():
    class Augmented:
        def __getitem__(self, index):
            return torch.rand(3, 8, 8), 0

    before = torch.get_rng_state()
    exhibit_of(Augmented(), 0)
    assert torch.equal(before, torch.get_rng_state())
