"""From recipe, preset, file, flags and ``key=value`` to one typed configuration, with every error at once.

Order (the later wins): code defaults < recipe < preset < ``--config`` < flags < ``key=value``. Free of torch
and numpy: a wrong setting is answered before anything heavy loads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from medfm import __version__, paths
from medfm.config import yaml12
from medfm.config.base import Settings
from medfm.config.check import Checker, nearest
from medfm.config.layers import Layers, alternatives
from medfm.config.methods import METHODS
from medfm.config.modalities import MODALITIES
from medfm.config.run import FinetuneConfig, RunConfig
from medfm.types import ConfigError

C = TypeVar("C", bound=Settings)


def resolve_pretrain(
    modality: str | None = None,
    method: str | None = None,
    preset: str | None = None,
    config: str | Path | Mapping[str, Any] | None = None,
    flags: Mapping[str, Any] | None = None,
    overrides: Iterable[str] = (),
) -> RunConfig:
    """The configuration of one pretraining run.

    ``modality`` may be left out when ``config`` names one; ``method=None`` takes the recipe's; the default
    preset is ``quick``. ``flags`` maps dotted keys to values; ``overrides`` are ``key.path=value`` words with
    YAML values. Raises :class:`ConfigError` whose message lists every mistake.
    """
    problems: list[str] = []
    file, label = _read_config(config, "pretrain")
    _of_kind(file, RunConfig, label)
    modality = modality or _name(file.get("modality"))
    if modality is None:
        raise ConfigError(
            f"no modality: add --modality {'|'.join(MODALITIES)}, or a --config that names one."
        )
    if modality not in MODALITIES:
        raise ConfigError(_unknown("--modality", modality, list(MODALITIES)))
    if method is not None and method not in METHODS:
        problems.append(_unknown("--method", method, list(METHODS)))
        method = None
    layers = Layers(RunConfig)
    layers.add({"modality": {"name": modality}}, "--modality")
    recipe, recipe_label = _recipe(modality, method or _name(file.get("method")))
    presets = dict(recipe.pop("presets", None) or {})
    own = dict(file.pop("presets", None) or {})
    name = preset or "quick"
    if name not in presets and name not in own and (preset or presets):
        problems.append(_unknown("--preset", name, [*presets, *(p for p in own if p not in presets)]))
    layers.add(recipe, recipe_label)
    layers.add(presets.get(name) or {}, f"{recipe_label}, preset {name}")
    layers.add(file, label)
    layers.add(own.get(name) or {}, f"{label}, preset {name}")
    if method is not None:
        layers.add({"method": {"name": method}}, "--method")
    problems += _lay_on_top(layers, flags, overrides)
    return _finish(RunConfig, layers, problems)


def resolve_finetune(
    config: str | Path | Mapping[str, Any] | None = None,
    flags: Mapping[str, Any] | None = None,
    overrides: Iterable[str] = (),
) -> FinetuneConfig:
    """The configuration of one fine-tuning run, over the recipe ``configs/finetune/<task>.yaml`` if any.

    Raises :class:`ConfigError` whose message lists every mistake, a missing table or target included.
    """
    flags = dict(flags or {})
    file, label = _read_config(config, "finetune")
    _of_kind(file, FinetuneConfig, label)
    layers = Layers(FinetuneConfig)
    stated = file.get("finetune")
    task = (
        flags.get("finetune.task") or (stated.get("task") if isinstance(stated, Mapping) else None) or "auto"
    )
    recipe = paths.configs() / "finetune" / f"{task}.yaml"
    if recipe.is_file():
        layers.add(yaml12.read(recipe), f"recipe {recipe.name}")
    layers.add(file, label)
    problems = _lay_on_top(layers, flags, overrides)
    for key, remedy in (
        ("table", "give one: medfm finetune TABLE ..."),
        ("backbone", "give one: --backbone REF; `medfm hub list` shows what there is"),
        ("target", "name the column to predict: --target COLUMN"),
    ):
        if not layers.data.get("finetune", {}).get(key):
            problems.append(f"finetune.{key}: is missing; {remedy}")
    return _finish(FinetuneConfig, layers, problems)


def resolve_saved(path: str | Path, kind: type[C]) -> C:
    """A run's own ``config.yaml``, with no recipe below it; :class:`ConfigError` lists what is wrong."""
    layers = Layers(kind)
    layers.add(_of_kind(yaml12.read(path), kind, str(path)), str(path))
    return _finish(kind, layers, [])


def dump_yaml(config: Settings) -> str:
    """The resolved configuration as YAML that ``--config`` takes back unchanged."""
    command = "finetune" if isinstance(config, FinetuneConfig) else "pretrain"
    head = f"# Resolved by medfm {__version__}. Run it again: medfm {command} --config THIS_FILE\n"
    return head + yaml12.dump(config.model_dump(mode="json"))


def is_override(word: str, kind: type[Settings] = FinetuneConfig) -> bool:
    """Whether a positional word is ``key.path=value`` rather than a file whose name holds an equals sign."""
    key, sep, _ = word.partition("=")
    return bool(sep) and key.split(".")[0] in kind.model_fields and not Path(word).exists()


def _lay_on_top(layers: Layers, flags: Mapping[str, Any] | None, overrides: Iterable[str]) -> list[str]:
    """Flags, then ``key=value``; the words that say nothing come back as problems."""
    problems = []
    for key, value in (flags or {}).items():
        layers.set(key, value, "flag")
    for word in overrides:
        key, sep, text = word.partition("=")
        if not sep or not all(part.isidentifier() for part in key.split(".")):
            problems.append(f"{word!r} is not of the form key.path=value (for example trainer.steps=500).")
            continue
        try:
            value = _typed(text, layers.annotation(key), word)
        except ConfigError as error:
            problems.append(str(error))
            continue
        layers.set(key, value, "command line")
    return problems


def _finish(kind: type[C], layers: Layers, problems: list[str]) -> C:
    checker = Checker(kind, layers.data, layers.origin)
    _raise([*problems, *layers.problems, *checker.problems])
    assert isinstance(checker.result, kind)
    return checker.result


def _typed(text: str, annotation: Any, word: str) -> Any:
    """The value of ``key=value``: YAML, but a field for text gets the text (a patient column named 007)."""
    wanted = alternatives(annotation)
    if str in wanted and not wanted & {int, float, bool, list, tuple, dict}:
        if text in ("null", "~", "") and type(None) in wanted:
            return None
        return yaml12.parse(text, word) if text[:1] in ("'", '"') else text
    value = yaml12.parse(text, word)
    if wanted & {list, tuple} and not isinstance(value, list) and value is not None:
        return [text] if str in _items(annotation) else [value]
    return value


def _items(annotation: Any) -> set[type]:
    found: set[type] = set()
    for argument in getattr(annotation, "__args__", ()):
        found |= alternatives(argument) | _items(argument)
    return found


def _recipe(modality: str, method: str | None) -> tuple[dict[str, Any], str]:
    """``<modality>_<method>.yaml`` if there is one, else ``<modality>.yaml``."""
    folder = paths.configs() / "pretrain"
    for stem in ([f"{modality}_{method}"] if method else []) + [modality]:
        if (path := folder / f"{stem}.yaml").is_file():
            return yaml12.read(path), f"recipe {path.name}"
    raise ConfigError(
        f"no recipe for {modality!r} in {folder}: this installation of medfm is incomplete; reinstall it."
    )


def _read_config(config: str | Path | Mapping[str, Any] | None, command: str) -> tuple[dict[str, Any], str]:
    """A mapping, a file, the folder of a run, or the name of a recipe that is shipped with ``command``."""
    if config is None:
        return {}, ""
    if isinstance(config, Mapping):
        return dict(config), "config"
    path = Path(config)
    if path.is_dir():
        path = path / "config.yaml"
    elif not path.exists():
        files = sorted((paths.configs() / command).glob("*.yaml"))
        # Also by the path that it has in the repository, for those who installed medfm without one.
        shipped = {f.stem: f for f in files} | {f"configs/{command}/{f.name}": f for f in files}
        if path.as_posix() not in shipped:
            names = [f.stem for f in files]
            guess = nearest(path.stem, names)
            hint = f"did you mean the recipe {guess}?" if guess else f"recipes: {', '.join(names)}."
            raise ConfigError(f"configuration file not found: {config}; {hint}")
        path = shipped[path.as_posix()]
    return yaml12.read(path), str(path)


def _of_kind(data: dict[str, Any], kind: type[Settings], label: str) -> dict[str, Any]:
    """``data``, unless it is the other command's: that is one mistake, not a list of unknown settings."""
    commands = {RunConfig: "pretrain", FinetuneConfig: "finetune"}
    written = FinetuneConfig if "finetune" in data else RunConfig if "method" in data else kind
    if written is not kind:
        raise ConfigError(f"{label} is of medfm {commands[written]}, not of medfm {commands[kind]}.")
    return data


def _name(block: Any) -> str | None:
    name = block.get("name") if isinstance(block, Mapping) else block
    return name if isinstance(name, str) else None


def _unknown(flag: str, value: str, known: list[str]) -> str:
    guess = nearest(value, known)
    hint = f"; did you mean {guess}?" if guess else ""
    return f"{flag} {value}: unknown{hint} (known: {', '.join(known)})"


def _raise(problems: list[str]) -> None:
    if problems:
        head = "one setting is wrong" if len(problems) == 1 else f"{len(problems)} settings are wrong"
        raise ConfigError("\n".join([f"{head}:", *(f"  {p}" for p in problems)]))
