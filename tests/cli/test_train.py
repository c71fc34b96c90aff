"""Flags to a resolved configuration, and what is said afterwards. The workflows are stood in for."""

import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from medfm.cli.main import main
from medfm.types import RESEARCH_USE


def medfm(line: str) -> int:
    return main(line.split())


def probed(backbone, **more):
    return {
        "backbone": backbone,
        "probe": "logistic regression",
        "auroc": 0.81234,
        "interval": [0.7, 0.9],
        "random_initialisation": 0.7,
        "difference": 0.11234,
        "difference_interval": [0.01, 0.2],
        **more,
    }


PROBED = {
    "records": 1200,
    "patients": 1100,
    "targets": ["a", "[b]"],
    "folds": 5,
    "repeats": 1,
    "rows": [
        probed("net-sim", gap_closed=0.374, gap_interval=[0.1, None], auprc=0.5),
        probed("classical features", gap_closed=None, gap_interval=[None, None], auprc=0.4),
    ],
    "by_target": [probed(n, target=t) for n in ("net-sim", "classical features") for t in ("a", "[b]")],
    "verdicts": ["net-sim ranks better than random initialisation on these 1100 patients."],
    "notes": ["No patient column was given."],
}


@pytest.fixture
def workflow(monkeypatch, tmp_path):
    """Stand-ins that keep what they were called with, talk like a library, and return a run."""
    calls: list[tuple] = []

    def run(*args, **kwargs):
        calls.append((args, kwargs))
        print("a library prints")
        logging.getLogger("medfm.run").info("2 of 3 files were read")
        report = tmp_path / "run" / "report.html"
        return SimpleNamespace(
            path=tmp_path / "run",
            results={"auroc": float("nan"), "n": 3},
            report=report,
            bundle=tmp_path / "run" / "bundle",
            next_command="medfm data synthesize ecg --output site\nmedfm finetune site/table.csv",
        )

    def other(*args, **kwargs):
        calls.append((args, kwargs))
        print("a library prints")
        return PROBED if "folds" in kwargs else Path(args[2])

    for name in ("pretrain", "finetune"):
        monkeypatch.setitem(sys.modules, f"medfm.workflows.{name}", SimpleNamespace(**{name: run}))
    for name in ("probe", "embed", "predict"):
        monkeypatch.setitem(sys.modules, f"medfm.workflows.{name}", SimpleNamespace(**{name: other}))
    monkeypatch.chdir(tmp_path)
    return calls


def test_pretrain_flags_reach_the_configuration(workflow):
    line = """pretrain --modality ecg --method ecg_jepa --data synthetic@0.5 --data waves/@0.5 --preset small
        --init other --patient none --seed 7 --output out --name mine --max-steps 12 --devices 2
        --num-nodes 3 --precision 32 --overwrite --quiet optim.lr=1e-4 method.keep=[.1,.2]"""
    assert medfm(line) == 0
    ((config,), options) = workflow[0]
    assert config.data.sources == ["synthetic@0.5", "waves/@0.5"] and config.data.patient is None
    assert (config.init, config.seed, config.output.dir, config.name) == ("other", 7, "out", "mine")
    trainer = config.trainer
    assert (trainer.steps, trainer.devices, trainer.num_nodes, trainer.precision) == (12, 2, 3, "32")
    assert config.optim.lr == 1e-4 and config.method.keep == (0.1, 0.2) and config.backbone.size == "xs"
    assert options == {"resume": False, "overwrite": True, "progress": False}


def test_resume_needs_the_run_folder_only(workflow, tmp_path):
    from medfm.config.load import dump_yaml, resolve_finetune

    flags = {"finetune.table": "t.csv", "finetune.backbone": "b", "finetune.target": ["afib"], "seed": 4}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(dump_yaml(resolve_finetune(None, flags)), encoding="utf-8")
    assert medfm("finetune --resume --output run") == 0
    ((config,), options) = workflow[0]
    assert (config.finetune.target, config.seed, options["resume"]) == (["afib"], 4, True)


def test_finetune_flags_reach_the_configuration(workflow):
    line = """finetune site.csv finetune.bootstrap=10 --backbone b --target afib,lbbb --task multilabel
        --strategy lora --patient pid --group site --folds 4 --repeats 3 --seed 5
        finetune.strategy.rank=2"""
    assert medfm(line) == 0
    ((config,), options) = workflow[0]
    asked = config.finetune
    assert (asked.table, asked.backbone, asked.target) == ("site.csv", "b", ["afib", "lbbb"])
    assert (asked.task, asked.strategy.name, asked.strategy.rank) == ("multilabel", "lora", 2)
    assert (asked.patient, asked.group) == ("pid", "site")
    assert (asked.folds, asked.repeats, asked.bootstrap, config.seed) == (4, 3, 10, 5)
    assert options == {"resume": False, "overwrite": False, "progress": True}


def test_a_saved_finetune_runs_again_with_changed_settings_and_no_table(workflow, tmp_path, capsys):
    assert medfm("finetune t.csv --backbone b --target y --patient none --print-config") == 0
    (tmp_path / "config.yaml").write_text(capsys.readouterr().out)
    assert medfm("finetune finetune.folds=3 --config config.yaml") == 0
    ((config,), _) = workflow[0]
    assert (config.finetune.table, config.finetune.folds, config.finetune.patient) == ("t.csv", 3, None)


def test_print_config_starts_nothing(workflow, capsys):
    assert medfm("pretrain --modality ecg --print-config trainer.steps=5") == 0
    assert yaml.safe_load(capsys.readouterr().out)["trainer"]["steps"] == 5 and not workflow


def test_the_end_of_a_run_says_where_things_are_and_what_to_do_next(workflow, capsys):
    assert medfm("pretrain --modality ecg") == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert "Written to run" in lines and "  report  run/report.html" in lines
    after = lines[lines.index("Next:") + 1 :]
    assert after[0] == "  medfm data synthesize ecg --output site"
    assert after[1] == "  medfm finetune site/table.csv"
    assert RESEARCH_USE in lines
    assert "a library prints" in err and "2 of 3 files were read" in err


def test_json_is_all_that_stands_on_standard_output(workflow, capsys):
    assert medfm("pretrain --modality ecg --json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (
        said["results"] == {"auroc": None, "n": 3} and len(said["next"]) == 2 and said["note"] == RESEARCH_USE
    )


def test_quiet_keeps_the_warnings(workflow, capsys):
    assert medfm("pretrain --modality ecg --quiet") == 0
    assert "2 of 3 files" not in capsys.readouterr().err


def test_resume_takes_the_rest_from_the_run_folder(workflow, tmp_path, capsys):
    assert medfm("pretrain --modality ecg --print-config trainer.steps=5") == 0
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.yaml").write_text(capsys.readouterr().out)
    assert medfm("pretrain --resume --output out") == 0
    ((config,), options) = workflow[0]
    assert config.trainer.steps == 5 and config.output.dir == "out" and options["resume"]


def test_resume_and_overwrite_exclude_each_other(workflow, capsys):
    assert medfm("pretrain --modality ecg --resume --overwrite") == 2
    assert "give one of them" in capsys.readouterr().err and not workflow


def test_probe_embed_predict(workflow, capsys):
    assert (
        main(
            [
                "probe",
                "t.csv",
                "--backbone",
                "all",
                "--target",
                "a,b",
                "--folds",
                "3",
                "--patient",
                "none",
                "--json",
            ]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["rows"][0]["auroc"] == 0.81234
    assert medfm("probe t.csv --backbone all --target a --repeats 4") == 0
    out = capsys.readouterr().out
    for words in (
        "1,200 records of 1,100 patients, 2 targets; 5 patient folds, 1 repeat(s)",
        "0.812 (0.700 to 0.900)  0.700      +0.112 (+0.010 to +0.200)  37% (not estimated)",
        "\n[b]",
        "net-sim ranks better",
        "No patient column was given.",
        "Research use only",
    ):
        assert words in out
    assert medfm("embed waves --backbone b --output z.csv") == 0
    assert medfm("predict waves --model run --output p.csv --json") == 0
    assert json.loads(capsys.readouterr().out.split("\n", 2)[2])["output"] == "p.csv"
    assert workflow[0][0] == ("t.csv", "all", ["a", "b"])
    assert workflow[0][1] == {
        "task": "auto",
        "horizon": None,
        "optimism": False,
        "patient": None,
        "folds": 3,
        "repeats": "auto",
        "pool": "mean-std",
        "output": None,
        "overwrite": False,
        "seed": 0,
    }
    assert workflow[1][1]["patient"] == "patient_id" and workflow[1][1]["repeats"] == 4
    assert medfm("probe t.csv --backbone b --target a --pool median") == 2
    assert workflow[2] == (("waves", "b", "z.csv"), {"patient": None, "overwrite": False, "codes": False})
    assert workflow[3][0] == ("waves", "run", "p.csv")
    assert medfm("predict t.csv --model run --output p.csv --patient pid --overwrite") == 0
    assert workflow[4][1] == {"patient": "pid", "overwrite": True, "codes": False}
