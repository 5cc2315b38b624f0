"""The page of finished runs: its numbers are those of the model, its text is escaped, runs on other
texts stand apart, and what cannot be shown is said.
"""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fast import chain, evaluate
from harness import cli, parity, runs
from harness.page import charts, computed, contents, html, sections, svg, write
from harness.page.contents import Finished, Group
from reference.recipe import InputError
from tests.harness.test_report import score, summary

FIGURES = (
    "scores",
    "positions",
    "reveal",
    "sizes",
    "grid",
    *(name.replace("_", "-") for name in charts.CURVES),
)


@pytest.fixture(scope="module")
def page(run_directory, tmp_path_factory) -> str:
    """Return the page of a tiny run."""
    out = tmp_path_factory.mktemp("page") / "report.html"
    assert cli.main(["report", str(run_directory), "-o", str(out)]) == 0
    return out.read_text()


@pytest.fixture
def copy(run_directory, tmp_path) -> Path:
    """Return a copy of a tiny run that may be damaged."""
    shutil.copytree(run_directory, tmp_path / "copy")
    return tmp_path / "copy"


def words(page: str) -> str:
    """Return the text of a page without its tags, on one line."""
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL).split())


def finished(number: float, *scores, **described) -> Finished:
    """Return a run that was never trained."""
    return Finished(
        Path(f"runs/{number:g}"), f"{number:g}", summary(number, *scores), described, [], []
    )


# one page


def test_the_page_holds_every_figure_once(page):
    found = re.findall(r'<svg id="text1-([a-z-]+)"', page) or re.findall(
        r'<svg[^>]* id="text1-([a-z-]+)"', page
    )
    assert sorted(found) == sorted(FIGURES)
    labels = re.findall(r'<svg[^>]*aria-label="([^"]*)"', page)
    assert len(labels) == len(FIGURES) and all(len(label) > 20 for label in labels)
    assert page.count("<summary>Numbers</summary>") == len(FIGURES)


def test_ids_and_what_refers_to_them_are_unique(page):
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len({*ids}) > 50
    asked = re.findall(r'href="#([^"]*)"', page) + re.findall(r"url\(#([^)]*)\)", page)
    assert asked and {*asked} <= {*ids}


def test_the_page_needs_nothing_else(page):
    """No script, no address that is fetched, no date; small enough to be sent."""
    assert "<script" not in page and "<?xml" not in page
    addresses = re.findall(r'(?:src|href)="(?!#|data:)([^"]*)"', page)
    assert addresses == [] and "@import" not in page and "url(http" not in page
    assert not re.search(r"20\d\d-\d\d-\d\d", page)
    assert len(page) < 1.5e6


def test_every_colour_is_of_the_theme(page):
    """A colour of matplotlib's own would not turn with the page, but for those on the heat map."""
    body = page.partition("</style>")[2]
    assert not any(stands_in in body for stands_in in svg.THEMED)
    plain = {*re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", body)}
    assert plain <= {"#ffffff", "#d55e00"}
    for i in range(len(svg.SERIES)):
        assert page.count(f"--series-{i}:") == 2  # light and dark


def test_the_same_run_gives_the_same_bytes(page, run_directory, tmp_path):
    out = tmp_path / "again.html"
    write.write((run_directory,), out)
    assert out.read_text() == page


def test_the_headline_says_the_score_the_size_and_what_it_beats(page, run_directory):
    known = json.loads((run_directory / "summary.json").read_text())
    best = min(known["scores"], key=lambda one: one["bpb"])
    said = words(page)
    assert f"{best['bpb']:.3f} ± {best['stderr_sequences']:.3f} bits per byte" in said
    size = known["artifact_bytes"] + known["code_bytes"]
    assert f"{known['parameters']:,} parameters in {size:,} bytes" in said
    least = min(known["baselines"][name] for name in ("zlib", "bz2", "lzma"))
    share = best["bpb"] / least - 1
    assert f"{abs(share):.0%} {'fewer' if share < 0 else 'more'} bits than" in said


def test_every_field_of_the_recipe_stands_on_the_page(page, run_directory):
    recipe = json.loads((run_directory / "recipe.json").read_text())["recipe"]
    for part, values in recipe.items():
        for name in values if isinstance(values, dict) else ():
            assert f">{part}.{name}<" in page


def test_json_of_a_report_with_a_page_is_the_list_of_summaries(run_directory, tmp_path, capsys):
    given = ["report", str(run_directory), "-o", str(tmp_path / "r.html"), "--json", "-"]
    assert cli.main(given) == 0
    [known] = json.loads(capsys.readouterr().out)
    assert known["run"] == str(run_directory) and (tmp_path / "r.html").exists()


# what cannot be shown


def test_without_an_artifact_its_figures_are_left_out_with_a_reason(copy, tmp_path):
    (copy / "artifact.mgolf").unlink()
    said = words(write.write((copy,), tmp_path / "r.html").read_text())
    assert said.count("Left out:") == 5  # four figures and the parity of a run without preflight
    assert "bytes by tensor and format" in said and "artifact.mgolf" in said
    assert "Training loss" in said and "Estimators and orders" in said


def test_without_its_text_what_reads_text_is_left_out(copy, tmp_path):
    described = json.loads((copy / "recipe.json").read_text())
    described["source"]["data"] = str(tmp_path / "nowhere")
    (copy / "recipe.json").write_text(json.dumps(described))
    page = write.write((copy,), tmp_path / "r.html").read_text()
    assert "nowhere" in words(page) and 'id="text1-sizes"' in page
    assert 'id="text1-positions"' not in page and 'id="text1-reveal"' not in page


def test_a_text_that_has_changed_is_not_taken_for_the_scored_one(copy, tmp_path):
    known = json.loads((copy / "summary.json").read_text())
    for one in known["scores"]:
        one["validation_sha256"] = "0" * 64
    (copy / "summary.json").write_text(json.dumps(known))
    page = write.write((copy,), tmp_path / "r.html").read_text()
    assert "no longer the one that was scored" in words(page)
    assert 'id="text1-positions"' not in page


def test_without_a_checkpoint_the_stored_values_are_drawn(copy, tmp_path):
    shutil.rmtree(copy / "checkpoint")
    page = write.write((copy,), tmp_path / "r.html").read_text()
    assert "no checkpoint" in words(page) and 'id="text1-grid"' in page


def test_without_records_there_are_no_curves(copy, tmp_path):
    (copy / "metrics.jsonl").unlink()
    page = write.write((copy,), tmp_path / "r.html").read_text()
    assert "Left out: training curves" in words(page)
    assert 'id="text1-train-loss"' not in page and 'id="text1-positions"' in page


def test_a_model_that_looks_back_alone_has_its_curve_alone(run_directory, monkeypatch):
    made = computed.opened(run_directory, {}, "cpu")
    causal = replace(made.recipe, model=replace(made.recipe.model, causal=True))
    shape = made.params | {"embedding": made.params["embedding"][: causal.model.vocab]}
    made = made._replace(recipe=causal, params=shape)
    shown = computed.positions(made, lambda done, total: None)
    assert list(shown.curves) == [computed.CAUSAL] and shown.difference is None
    with pytest.raises(InputError, match="left to right alone"):
        computed.reveal(made)


@pytest.mark.parametrize(
    ("shift", "told"),
    [
        (False, "it sees the one in front, the masked network sees none"),
        (True, "both networks see the mask token"),
    ],
)
def test_what_stands_before_the_first_token_is_said(shift, told, run_directory):
    made = computed.opened(run_directory, {}, "cpu")
    both = replace(made.recipe.model, shift=shift, causal_share=0.5)
    made = made._replace(recipe=replace(made.recipe, model=both))
    shown = computed.positions(made, lambda done, total: None)
    run = Finished(run_directory, "tiny", {}, {}, [], [])
    figure = charts.positions(shown, run, "positions")
    assert f"before the first token of a window {told})" in figure.caption


def test_a_model_that_takes_too_long_is_refused(run_directory, monkeypatch):
    """Fewer windows first, none where a single one takes too long."""
    made = computed.opened(run_directory, {}, "cpu")
    assert computed.windows_for(made, 10) == computed.WINDOWS
    weights = sum(value.numel() for value in made.params.values())
    model = made.recipe.model
    one = 2 * 10 * model.length * (weights + model.layers * model.length * model.d)
    monkeypatch.setitem(computed.WORK, "cpu", 3.5 * one)
    assert computed.windows_for(made, 10) == 3
    monkeypatch.setitem(computed.WORK, "cpu", 0.99 * one / computed.MOST_WORK)
    with pytest.raises(InputError, match="takes too long on this device"):
        computed.windows_for(made, 10)


# the parity of the run


def test_rows_of_the_preflight_are_kept_and_shown(copy, tmp_path):
    rows = parity.parity(("ema", "philox"), "cpu", ("float32",))
    runs._write_parity(copy, rows)
    assert json.loads((copy / "parity.json").read_text()) == [row.plain() for row in rows]
    said = words(write.write((copy,), tmp_path / "r.html").read_text())
    assert "2 pieces of the recipe ran twice on cpu" in said
    assert f"all {len(rows)} comparisons agree" in said and "no parity.json" not in said


def test_a_row_that_differs_is_said_and_shown_first(copy, tmp_path):
    [row, *_] = parity.parity(("ema",), "cpu", ("float32",))
    wrong = replace(row, piece="planted", error=None, passed=False)
    runs._write_parity(copy, [row, wrong])
    page = write.write((copy,), tmp_path / "r.html").read_text()
    assert "1 of 2 comparisons differ" in words(page) and "comparisons agree" not in words(page)
    table = page.partition("The parity table")[2]
    assert table.index("planted") < table.index(">ema<") and "not finite" in table


# what is computed


def test_bits_by_position_are_those_of_the_chain_rule(run_directory):
    """On windows of 8 tokens every position is asked for: the curve from left to right adds up to
    the exact score of the same windows.
    """
    made = computed.opened(run_directory, {}, "cpu")
    shown = computed.positions(made, lambda done, total: None)
    group = computed._windows(made, shown.windows)
    predict = evaluate.predictor(made.params, made.recipe)
    numbers = made.recipe.model.vocab, "left-to-right", 0, 1, 1
    nats_NL = chain.chain(predict, group.ids_NL, *numbers)
    bytes_NL = evaluate.bytes_of(group, made.dataset.tokenizer.table)
    assert [span.first for span in shown.curves[computed.MASKED]] == [0, 1, 2, 4]
    for span in shown.curves[computed.MASKED]:
        places = [p for first, last, p in computed._spans(8) if first == span.first][0]
        bits = nats_NL[:, places].sum() / np.log(2)
        assert span.bits_per_byte == pytest.approx(bits / bytes_NL[:, places].sum(), rel=1e-5)
        assert span.error > 0


def test_spans_are_stood_for_by_positions_within_them():
    """All of a short span, a few of a long one, evenly; every position lies in one span."""
    spans = computed._spans(128)
    assert [(first, last) for first, last, _ in spans][:4] == [(0, 0), (1, 1), (2, 3), (4, 7)]
    assert spans[-1][:2] == (64, 127)
    for first, last, chosen in spans:
        assert len(chosen) == min(computed.PER_SPAN, last - first + 1)
        assert all(first <= place <= last for place in chosen)
    assert spans[-1][2] == [85, 106]


def test_random_tokens_known_hide_the_others(run_directory):
    """So many are hidden in every window, other ones in each; with none known the costs are those
    of the first pass.
    """
    made = computed.opened(run_directory, {}, "cpu")
    predict, group = evaluate.predictor(made.params, made.recipe), computed._windows(made, 6)
    nats_NL, hidden_NL = computed._random_known(made, predict, group.ids_NL, 3)
    assert (hidden_NL.sum(axis=1) == 5).all() and len({*map(bytes, hidden_NL)}) > 1
    assert (nats_NL[hidden_NL] > 0).all() and (nats_NL[~hidden_NL] == 0).all()
    nats_NL, _ = computed._random_known(made, predict, group.ids_NL, 0)
    masked = torch.full(group.ids_NL.shape, made.recipe.model.vocab)
    first = -predict(masked).gather(-1, torch.as_tensor(group.ids_NL)[..., None])[..., 0]
    assert nats_NL == pytest.approx(first.numpy(), rel=1e-5)


def test_the_sentence_is_revealed_as_the_confidence_order_scores_it(run_directory):
    made = computed.opened(run_directory, {}, "cpu")
    shown = computed.reveal(made)
    length = len(shown.tokens)
    assert sorted(shown.order_L) == list(range(length))
    split, vocab = made.dataset.validation, made.recipe.model.vocab
    ids = split.read(0, min(len(split), computed.SEARCHED), vocab)
    texts = computed.token_texts(ids, made.dataset.tokenizer)
    first, stop = computed.sentence(texts, made.recipe.model.length)
    predict = evaluate.predictor(made.params, made.recipe)
    nats_1L = chain.chain(predict, ids[None, first:stop], vocab, "confidence", 0, 1, 1)
    assert shown.bits == pytest.approx(nats_1L.sum() / np.log(2), rel=1e-5)
    for step in range(length):
        hidden = shown.order_L >= step
        assert (np.isnan(shown.confidence_LL[step]) == ~hidden).all()
        surest = np.nanargmax(shown.confidence_LL[step])
        gap = (
            np.nanmax(shown.confidence_LL[step]) - shown.confidence_LL[step][shown.order_L == step]
        )
        assert shown.order_L[surest] == step or gap < 1e-4  # orders round their scores


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("it is. The cat sat on a mat and then it ran off to us . And", (2, 16)),
        ("Too short . The cat sat on a mat and then it ran off to us . ⏎", (3, 17)),
        ("The x=1 + 2 [3] {4} [5] {6} 7 8 9 10 . Next", None),
        ("no sentence at all here but for words and more words and so on", None),
    ],
)
def test_a_sentence_begins_and_ends_as_one(text, found):
    """Between a full stop and a full stop that is not one of an abbreviation, neither short nor
    made of signs; else the first tokens.
    """
    texts = [f" {word}" for word in text.split(" ")]
    assert computed.sentence(texts, 16) == (found or (0, min(16, len(texts))))


def test_the_grid_is_of_the_weights_and_of_what_is_stored(run_directory):
    made = computed.opened(run_directory, {}, "cpu")
    shown = computed.grid(run_directory, made)
    part = next(x for x in made.header["tensors"] if x["name"] == shown.tensor)
    assert part["format"] == shown.format == "e4m3" and shown.tensor.startswith("blocks.")
    assert shown.stored.shape == shown.weights.shape == (np.prod(part["shape"]),)
    scale = np.abs(shown.weights).max()
    assert 0 < np.abs(shown.stored - shown.weights).max() < scale / 8  # three bits of fraction


# several runs


def test_runs_on_other_texts_stand_apart(tmp_path, monkeypatch):
    """Each in a group of its own with a warning; the best of a text is the best of its own."""
    same = {"tokens": 5_000, "bytes": 60_000}
    groups = [
        Group("one", [finished(2, score(2, **same)), finished(1, score(1, **same))]),
        Group("two", [finished(0, score(0, validation_sha256="e" * 64, **same))]),
    ]
    assert groups[0].best.name == "1"
    drawn = [write._known(group, f"text{i}") for i, group in enumerate(groups, 1)]
    page = sections.whole(groups, drawn, html.Html(""))
    assert "2 different texts" in words(page) and "do not rank across" in words(page)
    first, second = page.split("<h2>")[1:]
    assert "Text 1 of 2: one" in first and "Text 2 of 2: two" in second
    assert "1.111" in words(second) and "1.111" not in words(first).replace("2.111", "")
    single = sections.whole(groups[:1], drawn[:1], html.Html(""))
    assert "different texts" not in single and "<h2>" not in single


def test_runs_are_grouped_by_what_they_were_scored_on(seeds, run_directory, tmp_path):
    """Two seeds on one text are one group; a run that is named twice counts once."""
    groups = contents.read((*seeds, seeds[0]))
    assert [[run.name for run in group.runs] for group in groups] == [["1", "2"]]
    other = tmp_path / "other"
    shutil.copytree(run_directory, other)
    known = json.loads((other / "summary.json").read_text())
    known["scores"][0]["validation_sha256"] = "0" * 64
    (other / "summary.json").write_text(json.dumps(known))
    groups = contents.read((seeds[0], other, seeds[1]))
    assert [[run.name for run in group.runs] for group in groups] == [["1", "2"], ["other"]]


def test_runs_by_one_estimator_are_ranked_and_seeds_averaged():
    """By number, not as text; without a mean where the recipes differ in more than the seed."""
    same = {"tokens": 5_000, "bytes": 60_000}
    described = {"recipe": {"seed": 1, "d": 8}}
    three = [finished(n, score(n, **same), **described) for n in (9, 1, 2)]
    page = sections.runs(Group("one", three))
    assert re.findall(r'<th scope="row">(\d)<', page) == ["1", "2", "9"]
    assert "mean 5.1111 bits per byte, standard deviation 4.3589" in words(page)
    other = finished(4, score(4, **same), recipe={"seed": 1, "d": 9})
    assert "mean" not in words(sections.runs(Group("one", [*three, other]))).replace("(mean", "")
    assert sections.runs(Group("one", three[:1])) is None


def test_losses_on_other_training_texts_do_not_rank():
    groups = [
        Group("one", [finished(1, training_sha256=a * 64), finished(2, training_sha256="b" * 64)])
        for a in "ab"
    ]
    apart, same = (words(sections.training(group, sections.Drawn())) for group in groups)
    assert "their losses do not rank" in apart and "text aaaaaaaa" in apart
    assert "rank" not in same and "text bbbbbbbb" not in same


def test_names_are_the_shortest_that_differ():
    paths = [Path("a/x/run"), Path("a/y/run"), Path("b/y/run")]
    assert contents.names(paths[:1]) == ["run"]
    assert contents.names(paths[:2]) == ["x/run", "y/run"]
    assert contents.names(paths) == ["a/x/run", "a/y/run", "b/y/run"]


# HTML and SVG


def test_every_string_is_escaped_and_html_is_not():
    inner = html.tag("b", "<&>", title='"<')
    assert inner == '<b title="&quot;&lt;">&lt;&amp;&gt;</b>'
    assert html.tag("p", inner, None, "<") == f"<p>{inner}&lt;</p>"
    assert html.tag("meta", charset="utf-8") == '<meta charset="utf-8">'
    assert "<script>" not in html.table(["<script>"], [["<script>", "<script>"]], "<script>")


def test_a_name_from_outside_cannot_become_a_tag(copy, tmp_path):
    evil = copy.rename(copy.parent / "<img src=x onerror=alert(1)>")
    known = json.loads((evil / "summary.json").read_text())
    (evil / "summary.json").write_text(json.dumps(known | {"hardware": "<script>alert(2)"}))
    page = write.write((evil,), tmp_path / "r.html").read_text()
    assert "<img" not in page and "<script" not in page and "&lt;script&gt;alert(2)" in page


def test_a_drawing_becomes_part_of_a_page():
    """Ids and what refers to them carry its name, its style does not leave it, stand-ins become the
    theme's.
    """
    written = (
        '<?xml version="1.0"?><svg width="9" viewBox="0 0 9 9"><metadata>now</metadata><defs>'
        '<style type="text/css">*{stroke:none}</style><clipPath id="a"/></defs>'
        f'<g clip-path="url(#a)" style="fill: {svg.SERIES[1]}; stroke: {svg.INK}"/>'
        "<text style=\"font: 12px 'DejaVu Sans', sans-serif; text-anchor: middle\">x</text></svg>"
    )
    made = svg.inline(written, "name", 'what "it" shows')
    assert 'id="name-a"' in made and "url(#name-a)" in made and "<style" not in made
    assert "fill: var(--series-1); stroke: currentColor" in made and "now" not in made
    assert "font-size: 12px; text-anchor: middle" in made
    assert made.startswith("<svg ") and 'aria-label="what &quot;it&quot; shows"' in made


def test_a_long_curve_keeps_its_ends_in_the_table():
    points = [[(step, step / 7) for step in range(1, 5_001)]]
    rows = charts._by_step(points)
    assert len(rows) <= charts.MOST_ROWS + 1
    assert rows[0][0] == "1" and rows[-1] == ("5,000", "714.3")


def test_parts_of_one_kind_are_one_bar():
    parts = [
        {"part": "blocks.0.q", "kind": "tensor", "format": "e4m3", "bytes": 10, "stored": 5},
        {"part": "blocks.1.q", "kind": "tensor", "format": "e4m3", "bytes": 20, "stored": 6},
        {"part": "blocks.1.q", "kind": "tensor", "format": "int8-row", "bytes": 1, "stored": 1},
        {"part": "a.py", "kind": "code", "format": "python", "bytes": 99, "stored": 99},
    ]
    assert charts.by_kind(parts) == [
        {"part": "code", "format": "python", "bytes": 99, "stored": 99},
        {"part": "blocks.*.q", "format": "e4m3", "bytes": 30, "stored": 11},
        {"part": "blocks.*.q", "format": "int8-row", "bytes": 1, "stored": 1},
    ]


@pytest.mark.parametrize(
    ("seconds", "said"), [(7.25, "7.2 s"), (71, "71 s"), (599, "10 min"), (9000, "2.5 h")]
)
def test_times_are_told_in_their_unit(seconds, said):
    assert sections.duration(seconds) == said


# the demo


@pytest.mark.parametrize("there", [True, False])
def test_a_demo_says_where_its_page_is_or_how_to_have_one(there, tmp_path, monkeypatch, capsys):
    from harness.commands import demo

    trained = SimpleNamespace(json=summary(1), show=lambda: print("the summary"))
    monkeypatch.setattr(demo.api, "train", lambda *given, **named: trained)
    monkeypatch.setattr(write, "write", lambda given, out, device: out)
    monkeypatch.setattr(demo, "find_spec", lambda name: there or None)
    assert cli.main(["demo", "--out", str(tmp_path / "run")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("the summary")
    assert (f"in figures: {tmp_path / 'run' / 'report.html'}" in said) is there
    assert ("install maskgolf[plot]" in said) is not there
    assert f" sample {tmp_path / 'run'} --prompt The" in said.partition("next: ")[2]
