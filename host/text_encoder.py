"""Files of text encoders in any dialect in, a host CLIP and what was done to it out.

What ComfyUI reads right is left to its own loader. Anything else is translated to its names and
format ids; with a scheme each layer is quantized while it is loaded.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sd
import folder_paths
import torch

from ..engine.choose import choose
from ..engine.devices import check
from ..engine.errors import Refused
from ..engine.model import UNKNOWN, Model
from ..engine.plan import Choice
from ..engine.source import Source
from ..engine.stored import held_by
from .choosing import exact_scheme, roots
from .devices import class_of, unholdable
from .encoders import ByTensor, encoder_operations, encoder_translation
from .load import AS_STORED, host_reads, opened, tell_translation, tell_twice
from .model import keep_in_memory
from .pristine import Recipe, Request
from .report import Report, shown
from .tokenizer import KEY, sentencepiece_for
from .translate import State
from .weights import is_linear

DEVICES = ("default", "cpu")
# the host's loader of so many files; for three it has one kind only
LOADERS = {1: "CLIPLoader", 2: "DualCLIPLoader"}
THREE = ("sd3",)
# kinds whose tokenizer the host looks for in a T5 file
TOKENIZED = ("wan", "ace")
# by these the host notices that a file is quantized: names, and rows where the size matters
_NOTICED = {
    "encoder.block.23.layer.1.DenseReluDense.wi_1.weight": 10240,
    "encoder.block.23.layer.1.DenseReluDense.wi.weight": None,
    "model.layers.0.self_attn.k_proj.weight": None,
    "model.language_model.layers.0.self_attn.k_proj.weight": None,
}


@dataclass(frozen=True)
class TextFiles:
    """What a CLIP is made of: files in order, the kind by the host's name, where it runs.

    `options` are more of the host's model options.
    """

    paths: tuple[str, ...]
    kind: str
    device: str = "default"
    options: Mapping[str, Any] = field(default_factory=dict)

    def model_options(self) -> dict[str, Any]:
        """The options of the host's loaders, a fresh copy: they write into them."""
        found = copy.deepcopy(dict(self.options))
        if self.device == "cpu":
            found["load_device"] = found["offload_device"] = torch.device("cpu")
        return found

    def load_device(self) -> torch.device:
        """Where the encoders will run."""
        found: torch.device = self.model_options().get(
            "load_device", comfy.model_management.text_encoder_device()
        )
        return found

    def host_kind(self) -> Any:
        """The host's type of the CLIP, as its own loader nodes look it up."""
        kinds = comfy.sd.CLIPType
        return getattr(kinds, self.kind.upper(), kinds.STABLE_DIFFUSION)


@dataclass(frozen=True)
class Opened:
    """One file."""

    source: Source
    model: Model


def clip_types(files: int) -> list[str]:
    """The kinds of CLIP that the host's own loader of so many files offers."""
    import nodes  # the host's, when it runs

    if files not in LOADERS:
        return list(THREE)
    kind = getattr(nodes, LOADERS[files]).INPUT_TYPES()["required"]["type"]
    listed = kind[0] if isinstance(kind[0], (list, tuple)) else kind[1]["options"]
    return [str(name) for name in listed]


def load_text_encoder(
    paths: Sequence[str | Path], kind: str, scheme: str | None = None, device: str = "default",
    on_failure: str = "full precision", options: Mapping[str, Any] | None = None,
) -> tuple[Any, Report]:  # fmt: skip
    """(CLIP, report) of one to three files. `kind` is a name of `clip_types`; `scheme` None: as
    stored, else every chosen layer is quantized to it. `device` is `default` or `cpu`.
    """
    files = TextFiles(tuple(map(str, paths)), kind, device, dict(options or {}))
    request = Request(scheme or AS_STORED, on_failure=on_failure)
    names = " + ".join(Path(path).name for path in files.paths)
    report = Report(f"Load {names}: {request.scheme}")
    _check(files)
    return _load(files, request, report), report


def reload_text(files: TextFiles, disable_dynamic: bool = False) -> Any:
    """The factory of encoders as they are stored: their patcher."""
    return _load(files, Request(AS_STORED), Report("again"), disable_dynamic).patcher


def requantize_text(recipe: Recipe, disable_dynamic: bool = False) -> Any:
    """The factory of encoders that were quantized while they were loaded: their patcher."""
    files = recipe.init[1][0]
    return _load(files, recipe.request, Report("again"), disable_dynamic).patcher


def _check(files: TextFiles) -> None:
    count = len(files.paths)
    if not 1 <= count <= 3:
        raise Refused(
            "text-encoder-count",
            found=f"{count} files",
            expected="one to three",
            fix="give the encoders that this kind of model needs",
        )
    for what, found, listed in (
        ("type", files.kind, clip_types(count)),
        ("device", files.device, DEVICES),
    ):
        if found not in listed:
            raise Refused(
                f"text-encoder-{what}",
                found=f"the {what} {found} for {count} files",
                expected=f"one of {', '.join(listed)}",
                fix="pick one of these, or change the number of files",
            )


def _load(files: TextFiles, request: Request, report: Report, disable_dynamic: bool = False) -> Any:
    started = time.perf_counter()
    found = [_open(path, report) for path in files.paths]
    report.family = " + ".join(one.model.family.title for one in found)
    if request.scheme != AS_STORED:
        clip = _quantizing(files, found, request, report, disable_dynamic)
    elif all(_stock(one, files) for one in found):
        report.notes.append("read by ComfyUI's own loader, as stored")
        return comfy.sd.load_clip(
            list(files.paths), folder_paths.get_folder_paths("embeddings"), files.host_kind(),
            files.model_options(), disable_dynamic=disable_dynamic,
        )  # fmt: skip
    else:
        device = files.load_device()
        slow = unholdable({layer.scheme for one in found for layer in one.model.layers}, device)
        if slow:
            report.warn(f"{', '.join(slow)} cannot be on {device.type}: dequantized on the CPU")
        states = [_state(one, files.kind, report, plain=bool(slow)) for one in found]
        clip = _build(files, states, [], report, disable_dynamic)
        clip.patcher.cached_patcher_init = (reload_text, (files,))
    report.seconds = time.perf_counter() - started
    return clip


def _open(path: str, report: Report) -> Opened:
    one = Opened(*opened(path, report))
    family = one.model.family
    if family.kind != "text" and family.name != UNKNOWN:
        raise Refused(
            "not-a-text-encoder",
            found=f"{Path(path).name}, {family.title}",
            expected="a text encoder",
            fix="open it with the loader of its kind",
        )
    return one


def _stock(one: Opened, files: TextFiles) -> bool:
    """The host's own loader gets every number right, and has the tokenizer."""
    if one.source.kind != "safetensors" or not host_reads(one.source, files.load_device()):
        return False
    marked = any(layer.scheme != "none" and "scale" in layer.parts[0].tensors
                 for layer in one.model.layers)  # fmt: skip
    return not _lacks_tokenizer(one, files.kind) and (not marked or _noticed(one.model))


def _noticed(model: Model) -> bool:
    """The host looks for quantized layers in such an encoder; in CLIP-L and CLIP-G it does not."""
    rows = {name: shape[0] for name, shape in model.shapes.items() if name in _NOTICED}
    return any(_NOTICED[name] in (None, count) for name, count in rows.items())


def _lacks_tokenizer(one: Opened, kind: str) -> bool:
    return kind in TOKENIZED and one.model.family.name == "t5" and KEY not in one.source.tensors


def _quantizing(
    files: TextFiles, found: list[Opened], request: Request, report: Report, disable_dynamic: bool
) -> Any:
    """Load with each chosen layer quantized as the host comes to it."""
    scheme, backend = exact_scheme(request.scheme, files.load_device())
    check(scheme, class_of(files.load_device()))
    if backend is not None:
        report.notes.append(f"encoders multiply in full precision: backend {backend} is not used")
    request = replace(request, scheme=scheme, backend=None)
    states, runs = [], []
    for one in found:
        choices = {choice.layer.key: choice for choice in choose(one.model, scheme)}
        for choice in choices.values():
            if choice.scheme == "none" and choice.layer.is_matrix:
                report.keep(choice.layer.name, choice.why)
        later = {k: c for k, c in choices.items() if c.scheme not in ("none", held_by(c.layer))}
        state = _state(one, files.kind, report, later, plain=scheme == "none")
        states.append(state)
        runs.append(ByTensor(one.source, state, later, request, report))
    clip = _build(files, states, runs, report, disable_dynamic)
    for run in runs:
        run.finish()
        tell_twice(run.choices, report)
    keep_in_memory(clip.patcher)
    recipe = Recipe((reload_text, (files,)), request, torch.float32)
    clip.patcher.cached_patcher_init = (requantize_text, (recipe,))
    return clip


def _state(
    one: Opened, kind: str, report: Report,
    later: Mapping[str, Choice] | None = None, plain: bool = False,
) -> State:  # fmt: skip
    """The tensors of one file under the host's names; those to be quantized `later` are shapes."""
    made = encoder_translation(one.source, one.model, later or {}, plain)
    state = made.state
    if not later and not plain:
        tell_translation(made, report)
    if _lacks_tokenizer(one, kind):
        state[KEY], place = sentencepiece_for(one.source)
        report.notes.append(f"tokenizer taken from {place}")
    projected = "text_projection" in state or "text_projection.weight" in state
    if one.model.family.name == "clip" and not projected:  # most files of FLUX have none
        width = one.model.shapes["text_model.embeddings.token_embedding.weight"][1]
        state["text_projection.weight"] = torch.eye(width, dtype=torch.float16)
    return state


def _build(
    files: TextFiles, states: list[State], runs: Sequence[ByTensor], report: Report,
    disable_dynamic: bool,
) -> Any:  # fmt: skip
    """The host's CLIP, the state dicts loaded through our operations."""

    def rewrite(state: State, prefix: str) -> None:
        for run in runs:
            run.rewrite(state, prefix)

    options = files.model_options()
    options["custom_operations"] = encoder_operations(
        files.load_device(), rewrite if runs else None
    )
    try:
        clip = comfy.sd.load_text_encoder_state_dicts(
            list(states), folder_paths.get_folder_paths("embeddings"), files.host_kind(),
            options, disable_dynamic=disable_dynamic,
        )  # fmt: skip
    except (RuntimeError, ValueError) as error:
        reason = str(error)
        if "tokenizer" not in reason and "state_dict" not in reason:
            raise
        raise Refused(
            "text-encoder-type",
            found=reason.split("\n")[0],
            expected=f"files that fit the type {files.kind}",
            fix="pick the type of the model that these encoders belong to",
        ) from error
    _check_filled(clip.cond_stage_model, files, report)
    return clip


def _check_filled(model: Any, files: TextFiles, report: Report) -> None:
    """Refuse an encoder that none of the files holds; name single layers that they lack."""
    linears = {name: module for name, module in model.named_modules() if is_linear(module)}
    empty = [name for name, module in linears.items() if module.weight is None]
    for root in roots(model):
        inside = [name for name in linears if name.startswith(root)]
        if inside and set(inside) <= set(empty):
            encoder = root.removesuffix("transformer.").strip(".")
            raise Refused(
                "text-encoder-missing",
                found=f"no weights for {encoder}",
                expected=f"every encoder of the type {files.kind} with {len(files.paths)} files",
                fix=f"give the file of {encoder}, or pick another type",
            )
    if empty:
        report.notes.append(f"not in the files: {len(empty)} layers ({shown(empty)})")
