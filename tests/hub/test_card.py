from __future__ import annotations

import pytest
from pydantic import ValidationError
from tiny_bundle import card

from medfm.hub.card import (
    Card,
    Dataset,
    Parent,
    Result,
    check_id,
    first_sentence,
    read_front_matter,
    simulated_sentence,
)
from medfm.types import RESEARCH_USE, MedfmError

HARD = 'a: "quoted" | piped\n---\n# no heading'


def test_the_front_matter_comes_back_from_the_readme_as_it_went_in():
    c = card(
        name=HARD, tags=["a: b", "yes", "1.0"], results=[Result(metric="AUROC", value=1 / 3, dataset=HARD)]
    )
    assert read_front_matter(c.readme()) == c.front_matter()


def test_hugging_faces_own_reader_finds_licence_tags_and_results():
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard(card().readme()).data
    assert (data.license, data.library_name) == ("apache-2.0", "medfm")
    assert {"ecg", "ecg_jepa", "simulated-data-only"} <= set(data.tags)
    assert data.datasets == ["synthetic-ecg"]
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("roc_auc", 0.8, "held out")
    assert result.metric_args == {"ci95": [0.7, 0.9], "random initialisation": 0.6}
    assert hub.ModelCardData(**data.to_dict()).to_dict() == data.to_dict()


def test_the_first_sentence_of_a_simulated_model_says_so_for_how_long_and_on_what():
    text = card(summary=simulated_sentence("ecg", 5400, "two CPU cores", 1200, 2400) + " More.").readme()
    first = first_sentence(text.split("# tiny-sim\n\n", 1)[1])
    for part in (
        "only on simulated ECG data",
        "90 minutes on two CPU cores",
        "2,400 synthetic records",
        "1,200 synthetic",
    ):
        assert part in first
    assert RESEARCH_USE in text


@pytest.mark.parametrize(
    "summary", ["A backbone for ECG. Only simulated data, 12 s.", "Trained on simulated data."]
)
def test_a_simulated_model_whose_first_sentence_hides_it_is_refused(summary):
    with pytest.raises(ValidationError, match="first sentence must say"):
        card(summary=summary)


def test_the_id_ends_in_sim_if_and_only_if_the_model_saw_simulated_data_only():
    with pytest.raises((MedfmError, ValidationError), match="must end in -sim"):
        card("tiny")
    real = {"simulated_only": False, "datasets": [Dataset(name="site")], "summary": "Of a site."}
    with pytest.raises((MedfmError, ValidationError), match="kept for models that saw simulated data only"):
        card("tiny-sim", **real)
    assert card("tiny", **real).id == "tiny"


def test_a_card_cannot_call_real_data_simulated_or_the_reverse():
    with pytest.raises(ValidationError, match="real"):
        card(datasets=[Dataset(name="site", simulated=False)])
    with pytest.raises(ValidationError, match="contradict"):
        card("tiny", simulated_only=False, summary="A backbone.")
    both = [Dataset(name="a", simulated=True, share=0.5), Dataset(name="site", share=0.5)]
    assert card("tiny", simulated_only=False, datasets=both).simulated_only is False
    # Simulated records continued from a parent that saw patients: the child has seen patients too.
    child = card("tiny", simulated_only=False, parents=[Parent(ref="site-model")])
    assert not child.simulated_only


@pytest.mark.parametrize("identifier", ["", "Upper", "a/b", "../a", "a..b", ".a", "a b", "a" * 97])
def test_an_id_that_could_not_be_a_folder_everywhere_is_refused(identifier):
    with pytest.raises(MedfmError, match="cannot be a model id"):
        check_id(identifier, False)


def test_shares_that_are_not_a_whole_are_refused():
    with pytest.raises(ValidationError, match=r"sum to 0\.5"):
        card(datasets=[Dataset(name="a", simulated=True, share=0.5)])


@pytest.mark.parametrize(
    "bad", [{"value": float("nan")}, {"value": 0.5, "ci": (0.6, 0.4)}, {"value": 0.5, "typo": 1}]
)
def test_a_result_must_be_a_number_with_ordered_bounds(bad):
    with pytest.raises(ValidationError):
        Result(metric="AUROC", dataset="x", **bad)


def test_the_results_table_states_value_interval_baseline_difference_and_patients():
    row = next(line for line in card().readme().splitlines() if line.startswith("| AUROC"))
    assert [c.strip() for c in row.strip("|").split("|")] == [
        "AUROC", "0.800 (0.700 to 0.900)", "random initialisation 0.600", "+0.200", "held out", "20",
    ]  # fmt: skip


def test_what_is_not_known_is_said_and_not_left_out():
    text = Card(id="bare", summary="Bare.", modality="ecg", architecture="ViT").readme()
    for sentence in (
        "No result is stated",
        "No description of the data",
        "nothing is known of failures",
        "not stated",
    ):
        assert sentence in text


@pytest.mark.parametrize("text", ["# no front matter", "---\na: [1\n---\n", "---\n- a\n---\n"])
def test_a_readme_without_metadata_is_refused(text):
    with pytest.raises(MedfmError, match="front matter"):
        read_front_matter(text)
