"""MONAI's U-Net, told the class of an image, or told nothing."""

from __future__ import annotations

from monai.networks.nets import DiffusionModelUNet

from .classes import NULL, ClassEmbedding


class ConditionalUNet(DiffusionModelUNet):
    """``DiffusionModelUNet`` whose ``class_labels`` may be weights of classes, and may be the null class.

    The class adds to the embedding of the time. The parameters, their names and all results for whole classes are
    MONAI's, so that weights fit either. With 4 image channels, ``out_channels`` 8, ``channels`` (128, 128, 256, 256,
    512, 512), attention at the fifth level with ``num_head_channels`` equal to ``channels``, ``norm_eps`` 1e-5 and 2
    classes it is the network of Wolleb et al. 2022 (arXiv 2203.04306), 113,681,160 parameters.

    Args:
        num_class_embeds: 3: healthy, diseased and null, whose vector is zero and stays so; 2 for weights that were
            trained without.
        arguments: those of ``DiffusionModelUNet``.
    """

    def __init__(self, num_class_embeds: int = 3, **arguments) -> None:
        super().__init__(num_class_embeds=num_class_embeds, **arguments)
        self.knows_null = num_class_embeds > NULL
        self.class_embedding = ClassEmbedding(num_class_embeds, 4 * self.block_out_channels[0])
