"""Each node's typical place in a graph: rows of nodes, the links between them, what is chosen.

A node of ComfyUI stands in CORE with its English and Chinese name. A second node of one kind gets
a `#2` behind its name. A link is `node.output > node.input TYPE`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

CORE = {
    "UNETLoader": ("Load Diffusion Model", "UNet加载器"),
    "KSampler": ("KSampler", "K采样器"),
    "CLIPTextEncode": ("CLIP Text Encode", "CLIP文本编码"),
    "CLIPVisionEncode": ("CLIP Vision Encode", "CLIP视觉编码"),
    "WanImageToVideo": ("WanImageToVideo", "图像到视频（Wan）"),  # noqa: RUF001
    "PreviewAny": ("Preview as Text", "预览任意"),
    "PreviewImage": ("Preview Image", "预览图像"),
}


@dataclass(frozen=True)
class Link:
    """(node, output) -> (node, input), and the type that goes through."""

    start: tuple[str, str]
    end: tuple[str, str]
    kind: str


@dataclass(frozen=True)
class Wiring:
    """A picture: rows of nodes ("" is a gap), links, and a line on some nodes."""

    rows: tuple[tuple[str, ...], ...]
    links: tuple[Link, ...]
    says: dict[str, str] = field(default_factory=dict)


def link(text: str) -> Link:
    """`a.b > c.d TYPE` -> Link."""
    start, _, rest = text.partition(" > ")
    end, _, kind = rest.partition(" ")
    (a, _, b), (c, _, d) = start.partition("."), end.partition(".")
    return Link((a, b), (c, d), kind)


def wiring(rows: str, links: str, **says: str) -> Wiring:
    """Rows and links, one a line; a gap is `-`."""
    cells = tuple(
        tuple("" if cell == "-" else cell for cell in row.split())
        for row in rows.strip().split("\n")
    )
    return Wiring(cells, tuple(link(line.strip()) for line in links.strip().split("\n")), says)


WIRINGS = {
    "FQAdvisor": wiring(
        """FQAdvisor FQQuantizeModel
        FQLoadDiT FQVRAMManager""",
        """FQAdvisor.plan > FQQuantizeModel.plan FQ_PLAN
        FQLoadDiT.MODEL > FQQuantizeModel.model MODEL
        FQQuantizeModel.model > FQVRAMManager.model MODEL
        FQAdvisor.plan > FQVRAMManager.plan FQ_PLAN""",
        FQAdvisor="goal: speed", FQQuantizeModel="scheme: auto", FQVRAMManager="mode: auto",
    ),
    "FQInspect": wiring(
        "FQInspect PreviewAny", "FQInspect.report > PreviewAny.source STRING",
        FQInspect="repair: false",
    ),
    "FQLoadDiT": wiring(
        """FQLoadDiT FQFuseLoRA
        - FQQuantizeModel""",
        """FQLoadDiT.MODEL > FQFuseLoRA.model MODEL
        FQFuseLoRA.MODEL > FQQuantizeModel.model MODEL""",
        FQLoadDiT="scheme: as stored", FQFuseLoRA="count: 1", FQQuantizeModel="scheme: auto",
    ),
    "FQLoadTextEncoder": wiring(
        """FQLoadTextEncoder CLIPTextEncode
        - KSampler""",
        """FQLoadTextEncoder.CLIP > CLIPTextEncode.clip CLIP
        CLIPTextEncode.CONDITIONING > KSampler.positive CONDITIONING""",
        FQLoadTextEncoder="files: 2",
    ),
    "FQLoadClipVision": wiring(
        """FQLoadClipVision CLIPVisionEncode
        - WanImageToVideo""",
        """FQLoadClipVision.CLIP_VISION > CLIPVisionEncode.clip_vision CLIP_VISION
        CLIPVisionEncode.output > WanImageToVideo.clip_vision_output CLIP_VISION_OUTPUT""",
        FQLoadClipVision="scheme: as stored",
    ),
    "FQFuseLoRA": wiring(
        """FQLoadDiT FQFuseLoRA
        - FQQuantizeModel""",
        """FQLoadDiT.MODEL > FQFuseLoRA.model MODEL
        FQFuseLoRA.MODEL > FQQuantizeModel.model MODEL""",
        FQLoadDiT="scheme: as stored", FQFuseLoRA="count: 1", FQQuantizeModel="scheme: auto",
    ),
    "FQQuantizeModel": wiring(
        """FQLoadDiT FQFuseLoRA
        - FQQuantizeModel
        FQLoadTextEncoder FQQuantizeModel#2""",
        """FQLoadDiT.MODEL > FQFuseLoRA.model MODEL
        FQFuseLoRA.MODEL > FQQuantizeModel.model MODEL
        FQLoadTextEncoder.CLIP > FQQuantizeModel#2.model CLIP""",
        FQQuantizeModel="scheme: auto",
    ),
    "FQLiveLoRA": wiring(
        """FQQuantizeModel FQLiveLoRA
        - KSampler""",
        """FQQuantizeModel.model > FQLiveLoRA.model MODEL
        FQLiveLoRA.MODEL > KSampler.model MODEL""",
        FQQuantizeModel="scheme: auto", FQLiveLoRA="count: 1",
    ),
    "FQVRAMManager": wiring(
        """FQQuantizeModel FQVRAMManager
        - KSampler""",
        """FQQuantizeModel.model > FQVRAMManager.model MODEL
        FQVRAMManager.MODEL > KSampler.model MODEL""",
        FQVRAMManager="mode: low VRAM",
    ),
    "FQSpeed": wiring(
        """FQVRAMManager FQSpeed
        - KSampler""",
        """FQVRAMManager.MODEL > FQSpeed.model MODEL
        FQSpeed.MODEL > KSampler.model MODEL""",
        FQSpeed="attention: auto",
    ),
    "FQFreeMemory": wiring(
        """FQVRAMManager KSampler
        - FQFreeMemory""",
        """FQVRAMManager.MODEL > KSampler.model MODEL
        KSampler.LATENT > FQFreeMemory.any LATENT
        FQVRAMManager.MODEL > FQFreeMemory.model MODEL""",
    ),
    "FQSaveModel": wiring(
        """FQFuseLoRA FQQuantizeModel
        - FQSaveModel""",
        """FQFuseLoRA.MODEL > FQQuantizeModel.model MODEL
        FQQuantizeModel.model > FQSaveModel.model MODEL""",
    ),
    "FQConvert": wiring(
        """FQConvert PreviewAny
        UNETLoader KSampler""",
        """FQConvert.report > PreviewAny.source STRING
        UNETLoader.MODEL > KSampler.model MODEL""",
        FQConvert="count: 1", UNETLoader="fusequant_00001",
    ),
    "FQQuality": wiring(
        """FQFuseLoRA FQQuantizeModel
        - FQQuality""",
        """FQFuseLoRA.MODEL > FQQuantizeModel.model MODEL
        FQQuantizeModel.model > FQQuality.model MODEL
        FQFuseLoRA.MODEL > FQQuality.reference MODEL""",
        FQQuality="level: normal",
    ),
    "FQBenchmark": wiring(
        """FQLoadDiT FQBenchmark
        - PreviewImage""",
        """FQLoadDiT.MODEL > FQBenchmark.model MODEL
        FQBenchmark.chart > PreviewImage.images IMAGE""",
        FQBenchmark="what: kernels",
    ),
}  # fmt: skip
