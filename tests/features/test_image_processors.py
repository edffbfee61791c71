"""The collator against the processors that it stands in for, image by image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from hf_finetune.errors import ModelError
from hf_finetune.features import FeatureOptions, collator_for
from hf_finetune.models.image_processing import ClassifierImageProcessor

# They do more than resize, crop, rescale and normalise.
REFUSED = {
    "Donut",
    "EfficientNet",
    "Levit",
    "MobileViT",
    "Perceiver",
    "Siglip2",
    "TextNet",
}
NEED_MORE = {"ImageGPT", "TimmWrapper"}  # clusters; timm and torchvision


def pictures(count, height, width, channels=None):
    """Strokes and noise: neither flat nor smooth, and clipped at both ends."""
    random = np.random.default_rng(height)
    rows, columns = np.mgrid[:height, :width]
    phases = random.uniform(0, 9, (count, channels or 1, 1, 1))
    waves = 128 + 200 * np.sin(rows / 3 + phases) * np.cos(columns / 4 - phases)
    noisy = waves + random.normal(0, 20, waves.shape)
    levels = np.clip(noisy, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    return levels if channels else levels[..., 0]


def levels_apart(processor, images):
    """Greatest difference between collator and processor, in levels of 0…255."""
    collator = collator_for(processor, FeatureOptions(), 0, training=False)
    ours = collator({"image": images})["pixel_values"]
    each = [image if image.ndim == 3 else np.stack([image] * 3, axis=-1) for image in images]
    theirs = processor(each, return_tensors="pt")["pixel_values"]
    assert ours.shape == theirs.shape
    return ((ours - theirs) * levels_of(processor)).abs().max().item()


def levels_of(processor):
    std = processor.image_std if processor.do_normalize else 1.0
    return torch.as_tensor(std).view(-1, 1, 1) / processor.rescale_factor


@pytest.mark.parametrize("processor_class", [ViTImageProcessorPil, DeiTImageProcessorPil])
@pytest.mark.parametrize(
    "shape", [(28, 28), (28, 28, 3), (32, 32, 3), (40, 61, 3), (150, 90, 3), (224, 224)]
)
def test_vit_and_deit(processor_class, shape):
    assert levels_apart(processor_class(), pictures(6, *shape)) <= 1e-4


def test_unequal_means():
    processor = ViTImageProcessorPil(image_mean=[0.48, 0.45, 0.4], image_std=[0.22, 0.25, 0.27])
    assert levels_apart(processor, pictures(3, 28, 28)) <= 1e-4
    assert levels_apart(processor, pictures(3, 40, 30, 3)) <= 1e-4


@pytest.mark.parametrize(("height", "width"), [(50, 33), (33, 50), (300, 411)])
def test_the_shortest_edge_keeps_the_aspect_ratio(height, width):
    assert levels_apart(CLIPImageProcessorPil(), pictures(2, height, width, 3)) <= 1e-4


@pytest.mark.parametrize("shortest_edge", [224, 384])
def test_convnext_cuts_small_sizes_and_squeezes_large_ones(shortest_edge):
    processor = ConvNextImageProcessorPil(size={"shortest_edge": shortest_edge})
    assert levels_apart(processor, pictures(2, 60, 90, 3)) <= 1e-4


@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("shape", [(28, 28), (30, 20, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_our_own(num_channels, shape, dtype):
    processor = ClassifierImageProcessor(
        num_channels=num_channels, size={"height": 35, "width": 31}, image_mean=0.3, image_std=0.2
    )
    images = pictures(3, *shape)
    if dtype is np.float32:
        images = images.astype(np.float32) / np.float32(255)
    collator = collator_for(processor, FeatureOptions(), 0, training=False)
    ours = collator({"image": images})["pixel_values"]
    theirs = processor(list(images), return_tensors="pt")["pixel_values"]
    assert ours.shape == theirs.shape == (3, num_channels, 35, 31)
    assert ((ours - theirs) * 0.2 * 255).abs().max() <= 1e-3


def processors():
    """Names of the processors of every classification model in transformers."""
    entries = [
        IMAGE_PROCESSOR_MAPPING_NAMES.get(kind) or {}
        for kind in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    ]
    names = {
        entry["pil"].partition("ImageProcessor")[0]: entry["pil"]
        for entry in entries
        if "pil" in entry
    }
    return {kind: name for kind, name in names.items() if kind not in NEED_MORE}


def test_the_listing_of_processors_lists():
    known = {"Beit", "Bit", "CLIP", "ConvNext", "DeiT", "MobileNetV2", "PoolFormer", "Pvt", "ViT"}
    assert known | REFUSED <= set(processors())


@pytest.mark.parametrize("kind", sorted(processors()))
def test_every_processor_is_matched_or_refused(kind):
    processor = getattr(transformers, processors()[kind])()
    if kind in REFUSED:
        with pytest.raises(ModelError, match=r"^processor.*Allowed.*"):
            collator_for(processor, FeatureOptions(), 0, training=False)
    else:
        assert levels_apart(processor, pictures(2, 90, 61, 3)) <= 1e-4


def test_a_processor_that_does_more_than_it_says_is_refused():
    class Mirror(ViTImageProcessorPil):
        def resize(self, image, *settings, **more):
            return super().resize(image, *settings, **more)[..., ::-1]

    with pytest.raises(ModelError, match="Mirror answers otherwise than its settings say"):
        collator_for(Mirror(), FeatureOptions(), 0, training=False)
