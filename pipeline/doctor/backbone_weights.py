"""Whether the weights of a backbone are here or can be had."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Final

from .finding import Finding, Subject, failed, gigabytes, ok, warning

_OFFLINE: Final = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_EDGE: Final = 2**20
_FILE: Final = "copy the file here and pass it with --weights FILE"


def weights(subject: Subject) -> Finding:
    """Where the backbone's weights come from, whether the file can be read, and what stands between."""
    from huggingface_hub import constants, get_token

    from ...data.errors import BackboneError
    from ...models.backbones.backbone import find_backbone
    from ...models.backbones.weights import EMBEDDED, at_hand, find_weights

    backbone = find_backbone(subject.backbone)
    file = Path(subject.weights) if subject.weights else None
    here = "named" if file else at_hand(backbone.name, backbone.hub_id, backbone.hub_file)
    offline = bool(constants.HF_HUB_OFFLINE)
    token = get_token() is not None
    figures = {"backbone": backbone.name, "hub": backbone.hub_id, "gated": backbone.gated}
    figures |= {"offline": offline, "token": token, "cache": str(constants.HF_HUB_CACHE)}
    if here:
        found = find_weights(
            backbone.name, backbone.hub_id, gated=backbone.gated, file=file, hub_file=backbone.hub_file
        )
        try:
            size = read_edges(found.path)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise BackboneError(
                f"cannot be read: {error}", path=found.path, hint="copy or download it again"
            ) from error
        where = {"named": str(found.path), "installed": "installed with wsipipe", "cached": f"cached in {found.path}"}
        digits = f" ({gigabytes(size)})" if backbone.name != EMBEDDED else ""
        return ok(f"{backbone.name}: {where[here]}{digits}", at=here, **figures)
    if backbone.hub_id is None:
        return failed(f"{backbone.name}: no weights are published", "pass them with --weights FILE", **figures)
    missing = f"{backbone.name}: not in the cache ({constants.HF_HUB_CACHE})"
    if offline:
        set_to = ", ".join(f"{name}={os.environ[name]}" for name in _OFFLINE if name in os.environ)
        return failed(f"{missing}, and the hub may not be asked ({set_to})", f"unset it, or {_FILE}", **figures)
    if backbone.gated and not token:
        hint = (
            f"ask for access on the page of {backbone.hub_id} at the Hugging Face hub, then `hf auth login`; or {_FILE}"
        )
        return failed(f"{missing}; its owners grant access on request, and nobody is logged in here", hint, **figures)
    if backbone.gated:
        hint = f"extract downloads them if the owners of {backbone.hub_id} have granted access to you"
        return warning(f"{missing}; its owners grant access on request, and you are logged in", hint, **figures)
    return warning(f"{missing}", f"extract downloads them from {backbone.hub_id}; or {_FILE}", **figures)


def read_edges(path: Path) -> int:
    """Read the beginning and the end of a weights file, or of each file of a folder; the bytes of all.

    :raises OSError: a file cannot be read.
    :raises ValueError: a safetensors file is shorter than its header says. A damaged archive raises
        :class:`zipfile.BadZipFile`.
    """
    files = [file for file in sorted(path.iterdir()) if file.is_file()] if path.is_dir() else [path]
    total = 0
    for file in files:
        size = file.stat().st_size
        with file.open("rb") as stream:
            stream.read(_EDGE)
            stream.seek(max(0, size - _EDGE))
            stream.read(_EDGE)
        if file.suffix == ".safetensors":
            from safetensors import SafetensorError, safe_open

            try:
                with safe_open(file, framework="np") as tensors:
                    tensors.keys()
            except SafetensorError as error:
                raise ValueError(str(error)) from error
        elif file.suffix in (".bin", ".pt", ".pth") and zipfile.is_zipfile(file):
            zipfile.ZipFile(file).close()
        total += size
    return total
