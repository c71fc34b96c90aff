"""Who the MRI phantom draws: subtypes that overlap, survival with a known risk, sequences that are missing."""

import numpy as np
import pytest
from scipy.stats import chi2_contingency, kstest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medfm.synthetic import mri_subjects
from medfm.synthetic.draws import Draws
from medfm.synthetic.mri_subjects import SITES, draw_missing, draw_people
from medfm.synthetic.mri_tissues import SEQUENCES


def people(n=3000, seed=1):
    return draw_people(Draws([(seed, s) for s in range(n)], 20), 1.0)


@pytest.fixture(scope="module")
def many():
    return people()


def concordance(months, event, risk):
    """Harrell's C by its definition: of pairs of which one is known to die first, the share with the higher risk."""
    first = (months[:, None] < months[None]) & event[:, None]
    higher = (risk[:, None] > risk[None]) + 0.5 * (risk[:, None] == risk[None])
    return (higher * first).sum() / first.sum()


def test_who_knows_the_numbers_tells_the_subtypes_apart_but_not_always(many):
    p = many
    odds = p.enhancing / (1 - p.enhancing)
    numbers = np.stack([np.log(odds), np.log(p.necrosis / (1 - p.enhancing)), np.log(p.oedema), p.age], 1)
    for column in numbers.T:
        assert 0.55 < roc_auc_score(p.subtype, column) < 0.87
    model = make_pipeline(StandardScaler(), LogisticRegression())
    guess = cross_val_predict(model, numbers, p.subtype, cv=3, method="predict_proba")[:, 1]
    assert 0.86 < roc_auc_score(p.subtype, guess) < 0.95
    assert roc_auc_score(p.subtype, p.radius) == pytest.approx(0.5, abs=0.04)
    assert p.subtype.mean() == pytest.approx(0.55, abs=0.03)
    assert set(p.grade[p.subtype == 0]) == {2, 3} and set(p.grade[p.subtype == 1]) == {3, 4}


def test_sites_say_nothing_of_the_subtype_nor_of_death(many):
    table = np.array([np.bincount(many.subtype[many.site == k], minlength=2) for k in range(len(SITES))])
    assert chi2_contingency(table).pvalue > 0.01 and table.min() > 100
    np.testing.assert_allclose(table.sum(1) / table.sum(), [s.share for s in SITES], atol=0.03)
    risk = np.array([many.risk[many.site == k].mean() for k in range(len(SITES))])
    assert np.ptp(risk) < 0.2


def test_an_oracle_ranks_survival_as_stated(many):
    p = many
    oracle = concordance(p.months, p.event, p.risk)
    assert oracle == pytest.approx(0.72, abs=0.025)
    for weaker in (p.age, p.subtype, p.radius):
        assert 0.52 < concordance(p.months, p.event, weaker) < oracle - 0.05
    assert 0.25 < 1 - p.event.mean() < 0.45


def test_risk_is_linear_in_what_it_says(many):
    p = many
    core = 4 / 3 * np.pi * p.radius**3 / 1000
    x = np.stack([p.subtype, p.age / 13.5, np.log(core), np.log(core * p.enhancing + 0.5)], 1)
    fit, rest, *_ = np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), p.risk, rcond=None)
    np.testing.assert_allclose(fit[:4], list(mri_subjects.RISK.values()), atol=1e-6)
    assert float(rest[0]) < 1e-12


def test_hazards_are_proportional_and_weibull(monkeypatch):
    """With nothing unexplained nor censored, the cumulative hazard at death is exponential of mean 1."""
    monkeypatch.setattr(mri_subjects, "UNEXPLAINED", 0.0)
    monkeypatch.setattr(mri_subjects, "FOLLOW_UP", (1e9, 1e9))
    p = people(1500, seed=2)
    assert p.event.all()
    cumulative = (p.months / 30.0) ** 1.25 * np.exp(p.risk)
    assert kstest(cumulative, "expon").pvalue > 0.01
    high = p.risk > np.median(p.risk)
    assert kstest(cumulative[high], "expon").pvalue > 0.01


def test_censoring_is_by_the_end_of_the_study(many):
    """Those followed the longest were censored between 8 and 84 months, whatever their risk."""
    lost = ~many.event
    assert many.months[lost].min() >= 8 and many.months.max() <= 84
    # among those with little risk hardly anyone dies early, so that their censoring is the uniform it is drawn from
    safe = many.risk < np.quantile(many.risk, 0.03)
    early = lost[safe] & (many.months[safe] < 46)
    assert early.mean() == pytest.approx(0.5, abs=0.17)


def test_ageing_shrinks_and_the_old_have_subtype_one(many):
    assert np.corrcoef(many.age, many.atrophy)[0, 1] > 0.8
    assert many.age[many.subtype == 1].mean() > many.age[many.subtype == 0].mean() + 4
    assert many.age.min() >= 18 and many.age.max() <= 90


def test_missing_patterns_are_those_of_the_site():
    n = 2000
    site = np.arange(n) % len(SITES)
    draw = lambda share: draw_missing(Draws([(1, s) for s in range(n)], 2), site, share)  # noqa: E731
    assert not any(draw(0.0)) and all(draw(1.0))
    some = draw(0.3)
    for k, s in enumerate(SITES):
        mine = [some[i] for i in np.flatnonzero(site == k)]
        odds = s.missing * 0.3 / 0.7
        assert np.mean([bool(m) for m in mine]) == pytest.approx(odds / (1 + odds), abs=0.06)
        found = {m: mine.count(m) / sum(map(bool, mine)) for m in set(mine) if m}
        total = sum(s.patterns.values())
        assert set(found) == set(s.patterns)
        for pattern, share in s.patterns.items():
            assert found[pattern] == pytest.approx(share / total, abs=0.13)
            assert set(pattern) < set(SEQUENCES)
