"""Weights of the artefact network that make it a known function: one colour is a fold, another one is pen."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from wsipipe.models.artefact_network import architecture

FOLD, PEN = (60, 40, 200), (0, 200, 60)
"""Blue is much above green in a fold, and green above red in pen; in H&E and on glass neither is."""
TISSUE = 1


def silence(model: torch.nn.Module) -> None:
    """Set all convolutions to zero; what is set afterwards is all that the network computes. Without gradients."""
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.weight.zero_()
            if layer.bias is not None:
                layer.bias.zero_()


def colour_network() -> torch.nn.Module:
    """All weights zero but for two channels that carry two differences of colours to the classes of fold and pen.

    They pass the first layer of the encoder, which sees every other pixel, and the last skip to the decoder.
    """
    model = architecture().eval()
    layers = dict(model.named_modules())
    with torch.no_grad():
        silence(model)
        stem, bias = layers["encoder.conv_stem"].weight, layers["encoder.bn1"].bias
        spread = (0.229, 0.224, 0.225)  # of ImageNet, by which the channels are divided
        mean = (0.485, 0.456, 0.406)
        for channel, (more, less) in enumerate(((2, 1), (1, 0))):
            stem[channel, more, 1, 1], stem[channel, less, 1, 1] = 20 * spread[more], -20 * spread[less]
            bias[channel] = 20 * (mean[more] - mean[less]) - 20 * 110 / 255  # above 0 if it differs by 110
        first, second = layers["decoder.blocks.3.conv1.0"].weight, layers["decoder.blocks.3.conv2.0"].weight
        third, fourth = layers["decoder.blocks.4.conv1.0"].weight, layers["decoder.blocks.4.conv2.0"].weight
        of_skip = first.shape[1] - stem.shape[0]  # the skip comes behind what is enlarged
        head = layers["segmentation_head.0"]
        for channel in range(2):
            first[channel, of_skip + channel, 1, 1] = 1
            for weight in (second, third, fourth):
                weight[channel, channel, 1, 1] = 1
            head.weight[(2, 4)[channel], channel, 1, 1] = 10
        head.bias[TISSUE] = 5
    return model


def save_colours(path: Path) -> Path:
    """Save these weights as a file of the user."""
    save_file({name: tensor.contiguous() for name, tensor in colour_network().state_dict().items()}, path)
    return path
