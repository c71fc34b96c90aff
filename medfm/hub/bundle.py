"""A bundle: the folder in which a model travels, with its preprocessing, its card and the hash of every file.

``model.safetensors`` (a head's tensors under ``head.``), ``config.json``, ``README.md``, optional
``adapter/`` (peft's own format) and ``manifest.json``. Reading configuration and card loads no torch.
"""

from __future__ import annotations

import copy
import hashlib
import json
import platform
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from medfm.hub.card import Card, read_front_matter
from medfm.hub.seal import explained, verify_folder, write_manifest
from medfm.types import MedfmError

if TYPE_CHECKING:
    from torch import Tensor

    from medfm.backbones.base import Backbone

FORMAT = 1
WEIGHTS, CONFIG, README, ADAPTER = "model.safetensors", "config.json", "README.md", "adapter"
HEAD = "head."
UPDATE = "pip install -U medfm"


@dataclass(frozen=True)
class Bundle:
    """A verified bundle folder. ``config`` is ``config.json`` without the card."""

    path: Path
    config: dict[str, Any]
    card: Card

    @property
    def head(self) -> dict[str, Any] | None:
        """What the head answers (``task``, ``targets``, ``classes``, ...), or None for a backbone alone."""
        return self.config.get("head")

    @property
    def has_weights(self) -> bool:
        return (self.path / WEIGHTS).is_file()

    def require_weights(self) -> None:
        """Raise :class:`MedfmError`, which says how to get them, where only the card is here."""
        if not self.has_weights:
            raise MedfmError(
                f"{self.card.id}: only the card is here, not the weights. "
                f"{self.card.obtain or 'Ask who made it.'}"
            )

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """All tensors, floating ones as float32."""
        from safetensors.torch import load_file

        self.require_weights()
        with explained("reading the weights", self.path):
            tensors = load_file(self.path / WEIGHTS)
        return {k: t.float() if t.is_floating_point() else t for k, t in tensors.items()}

    @property
    def backbone_state(self) -> dict[str, Tensor]:
        return {k: t for k, t in self.state.items() if not k.startswith(HEAD)}

    @property
    def head_state(self) -> dict[str, Tensor]:
        """The head's tensors without their prefix; empty for a backbone alone."""
        return {k.removeprefix(HEAD): t for k, t in self.state.items() if k.startswith(HEAD)}

    @property
    def weights_sha256(self) -> str:
        """:func:`weights_hash` of the backbone: what a child's ``parents`` and an adapter refer to."""
        return weights_hash(self.backbone_state)

    def build(self) -> Backbone:
        """The backbone with its weights, in evaluation mode. Every key and shape must fit
        (:class:`MedfmError`).
        """
        from medfm.backbones.base import build
        from medfm.config.backbones import BACKBONES

        arguments = self.config["backbone"]
        if (name := arguments.get("name")) not in BACKBONES:
            raise MedfmError(_unknown("backbone", name, BACKBONES, self))
        try:
            backbone = build(arguments)
        except (TypeError, ValueError, KeyError) as error:
            raise MedfmError(
                f"{self.path / CONFIG}: this medfm cannot build the backbone {name!r} ({error}); "
                "written by medfm "
                f"{self.config['versions'].get('medfm', '?')}. {UPDATE}."
            ) from error
        check_state(backbone.state_dict(), self.backbone_state, self.path / WEIGHTS)
        backbone.load_state_dict(self.backbone_state, strict=True)
        return backbone.eval()

    def modality(self) -> Any:
        """The modality with the preprocessing that the weights were trained with."""
        from medfm.config.modalities import MODALITIES

        settings = dict(self.config["modality"])
        if (name := settings.get("name")) not in MODALITIES:
            raise MedfmError(_unknown("modality", name, MODALITIES, self))
        try:
            resolved = MODALITIES[name].settings(**settings)
        except ValidationError as error:
            raise MedfmError(
                f"{self.path / CONFIG}: this medfm does not understand the preprocessing "
                f"({'.'.join(map(str, error.errors()[0]['loc']))}: "
                f"{error.errors()[0]['msg']}). {UPDATE}."
            ) from error
        return MODALITIES[name].load()(**resolved.model_dump(exclude={"name"}))

    def with_adapter(self, backbone: Backbone) -> Any:
        """``backbone`` wrapped by peft with this bundle's adapter; it must be the one trained on, by hash."""
        from peft import PeftModel

        needed = (self.config.get("adapter") or {}).get("backbone_sha256")
        if needed is None:
            raise MedfmError(f"{self.path} holds no adapter.")
        if (found := weights_hash(backbone.state_dict())) != needed:
            raise MedfmError(
                f"{self.path / ADAPTER}: the adapter needs the backbone with weights {needed[:12]}, "
                f"this one has {found[:12]}; "
                f"load {self.config['adapter'].get('backbone') or 'the backbone that it was trained on'}."
            )
        return PeftModel.from_pretrained(backbone, str(self.path / ADAPTER)).eval()


def load_bundle(folder: str | Path) -> Bundle:
    """Verify ``folder`` against its manifest, then read configuration and card. Weights are read by
    ``build``.
    """
    folder = Path(folder)
    entries = verify_folder(folder)
    if missing := {CONFIG, README} - set(entries):
        raise MedfmError(f"{folder} is not a bundle: it has no {' and no '.join(sorted(missing))}.")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise MedfmError(f"{folder / CONFIG}: not JSON ({error}).") from error
    return Bundle(folder, *parse_config(config, folder / CONFIG))


def parse_config(config: Any, where: str | Path) -> tuple[dict[str, Any], Card]:
    """Check the format version and shape of a ``config.json`` and split off the card."""
    version = config.get("format") if isinstance(config, dict) else None
    if not isinstance(version, int):
        raise MedfmError(f"{where}: no bundle configuration (no 'format').")
    if version > FORMAT:
        raise MedfmError(
            f"{where}: bundle format {version} is newer than this medfm reads ({FORMAT}); {UPDATE}, "
            "or ask for an older revision."
        )
    for key in ("backbone", "modality", "card", "versions"):
        if not isinstance(config.get(key), dict):
            raise MedfmError(f"{where}: damaged, it has no section {key!r}.")
    try:
        card = Card.model_validate(config["card"])
    except ValidationError as error:
        first = error.errors()[0]
        raise MedfmError(
            f"{where}: the card is not valid ({'.'.join(map(str, first['loc'])) or 'card'}: {first['msg']}). {UPDATE}, or "
            "get the model again."
        ) from error
    return {k: v for k, v in config.items() if k != "card"}, card


def save_bundle(
    folder: str | Path,
    backbone: Backbone,
    modality_settings: Mapping[str, Any],
    card: Card,
    config: Mapping[str, Any] | None = None,
    head: Mapping[str, Any] | None = None,
    head_state: Mapping[str, Tensor] | None = None,
    *,
    dtype: Literal["float32", "float16"] = "float32",
    adapter: Any = None,
    adapter_backbone: tuple[str, str] | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Write a bundle beside ``folder`` and rename it into place, so that a kill leaves the old one or the new
    one.

    ``modality_settings``: ``Modality.settings()``, with ``name``. ``config``: further sections (``method``,
    ``training``). ``head`` says what ``head_state`` answers (``task``, ``targets``, ``classes``). ``dtype``
    float16 halves the file; loading always gives float32. ``adapter``: a ``peft.PeftModel`` whose adapter is
    saved beside weights that already contain it (so that loading needs no peft), with ``adapter_backbone`` =
    (reference, ``weights_hash``) of the network that it was trained on. Weights that are not finite, or that
    float16 cannot hold, are refused.
    """
    folder = Path(folder).expanduser().absolute()
    if folder.exists() and not overwrite and not (folder.is_dir() and not any(folder.iterdir())):
        raise MedfmError(f"{folder} exists already; choose another folder, or overwrite it.")
    plain: dict[str, Any] = {
        "format": FORMAT,
        "backbone": backbone.config(),
        "modality": dict(modality_settings),
        "parents": [p.model_dump() for p in card.parents],
        "head": None if head is None else dict(head),
        "adapter": None,
        "dtype": dtype,
        "versions": _versions(),
        **(config or {}),
        "card": card.model_dump(mode="json"),
    }
    if (head is None) != (not head_state):
        raise MedfmError("a head needs both its description and its tensors.")
    if adapter is not None:
        assert adapter_backbone is not None, "an adapter is useless without the hash of its backbone"
        plain["adapter"] = {"backbone": adapter_backbone[0], "backbone_sha256": adapter_backbone[1]}
    tensors = _tensors(backbone.state_dict(), head_state or {}, dtype, card.id)
    with explained("saving the bundle", folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}"
        temporary.mkdir()
        try:
            _write(temporary, plain, tensors, card, adapter)
            _replace(temporary, folder)
        finally:
            if temporary.exists():
                shutil.rmtree(temporary)
    return load_bundle(folder)


def _write(folder: Path, plain: dict[str, Any], tensors: dict[str, Tensor], card: Card, adapter: Any) -> None:
    from safetensors.torch import save

    # Through save() and not save_file(): a full disk then is an OSError with its errno, not a Rust exception.
    (folder / WEIGHTS).write_bytes(save(tensors, metadata={"format": "pt"}))
    (folder / CONFIG).write_text(json.dumps(plain, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    (folder / README).write_text(card.readme(), encoding="utf-8")
    if adapter is not None:
        _write_adapter(folder / ADAPTER, adapter, plain["adapter"]["backbone"])
    write_manifest(folder)


def _write_adapter(folder: Path, adapter: Any, backbone: str) -> None:
    """Peft's two files. ``PeftModel.save_pretrained`` also writes a card from ``model.config``, which is a
    method of our backbones and a mapping in the networks that peft has in mind."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save

    folder.mkdir()
    state = {k: t.detach().cpu().contiguous().clone() for k, t in get_peft_model_state_dict(adapter).items()}
    (folder / "adapter_model.safetensors").write_bytes(save(state, metadata={"format": "pt"}))
    settings = copy.copy(adapter.peft_config[adapter.active_adapter])
    settings.base_model_name_or_path, settings.inference_mode = backbone, True
    settings.save_pretrained(str(folder))
    path = folder / "adapter_config.json"
    plain = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(plain.get("target_modules"), list):
        plain["target_modules"].sort()  # a set in peft: its order would change from process to process
    path.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")


def _replace(temporary: Path, folder: Path) -> None:
    """Put ``temporary`` in the place of ``folder``; what stood there is moved aside and deleted last."""
    if not folder.exists():
        temporary.rename(folder)
        return
    aside = temporary.with_name(temporary.name + ".old")
    folder.rename(aside)
    try:
        temporary.rename(folder)
    except OSError:
        aside.rename(folder)
        raise
    shutil.rmtree(aside)


def _tensors(
    backbone: Mapping[str, Tensor], head: Mapping[str, Tensor], dtype: str, identifier: str
) -> dict[str, Tensor]:
    import torch

    if clash := [k for k in backbone if k.startswith(HEAD)]:
        raise MedfmError(f"{identifier}: the backbone's tensor {clash[0]} has a name that is kept for heads.")
    tensors = {}
    for name, value in {**backbone, **{HEAD + k: t for k, t in head.items()}}.items():
        tensor = value.detach().cpu()
        if tensor.is_floating_point():
            tensor = tensor.to(getattr(torch, dtype))
            if not torch.isfinite(tensor).all():
                if torch.isfinite(value).all():
                    raise MedfmError(
                        f"{identifier}: {name} is too large for float16; save with dtype float32."
                    )
                raise MedfmError(
                    f"{identifier}: {name} holds values that are not finite, the training has "
                    "diverged. Lower optim.lr and run again."
                )
        tensors[name] = tensor.contiguous().clone()  # safetensors refuses views of one memory
    return tensors


def check_state(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], where: str | Path) -> None:
    """Name missing and unexpected keys and the first shape that does not fit."""
    problems = []
    if missing := sorted(set(expected) - set(found)):
        problems.append(f"missing {_few(missing)}")
    if extra := sorted(set(found) - set(expected)):
        problems.append(f"unexpected {_few(extra)}")
    for key in expected:
        if key in found and expected[key].shape != found[key].shape:
            problems.append(
                f"{key} is {list(found[key].shape)} where the network has {list(expected[key].shape)}"
            )
            break
    if problems:
        raise MedfmError(
            f"{where} does not fit the network of its config.json: {'; '.join(problems)}. Get the model again."
        )


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes and float32 values: the same for a network and for the file that it came
    from.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu()
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        digest.update(f"{name}:{list(tensor.shape)}:{tensor.dtype}\n".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def verify_bundle(folder: str | Path) -> Bundle:
    """More than a load checks: the front matter of ``README.md`` equals the card's, and the card belongs to
    this config.
    """
    bundle = load_bundle(folder)
    if read_front_matter((bundle.path / README).read_text(encoding="utf-8")) != json.loads(
        json.dumps(bundle.card.front_matter())
    ):
        raise MedfmError(
            f"{bundle.path / README}: its front matter differs from the card in {CONFIG}; write it again."
        )
    if bundle.card.modality != bundle.config["modality"].get("name"):
        raise MedfmError(
            f"{bundle.path / CONFIG}: the card says {bundle.card.modality}, the preprocessing "
            "another modality."
        )
    return bundle


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _unknown(kind: str, name: object, table: Mapping[str, Any], bundle: Bundle) -> str:
    return (
        f"{bundle.path / CONFIG}: needs the {kind} {name!r}, which this medfm does not have (it has "
        f"{', '.join(table)}); "
        f"the bundle was written by medfm {bundle.config['versions'].get('medfm', '?')}. {UPDATE}."
    )


def _versions() -> dict[str, str]:
    from medfm import __version__

    return {"medfm": __version__, "python": platform.python_version(), "torch": metadata.version("torch")}
