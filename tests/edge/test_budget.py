"""The ledger is arithmetic: whatever it says fits must fit, and one step more must not."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import budget
from edge.budget import Part, Parts, Use
from edge.errors import BudgetExceeded
from edge.memory import Limit
from edge.sizes import parse_size

MIB = 2**20

PARTS = Parts(
    weights=Part(20 * MIB, 150 * MIB, 120 * MIB),
    prepared=True,
    preparing_bytes=230 * MIB,
    tokenizer_bytes=30 * MIB,
    kv_bytes_per_token=46080,
    activation_bytes_per_token=63360,
    logits_bytes=49152 * 4,
    pruned_head=True,
    prefill_chunk_tokens=128,
    context_tokens=2048,
    parent=Part(15 * MIB, 10 * MIB, 2 * MIB),
    interpreter_bytes=9 * MIB,
    retrieval=Part(15 * MIB, 32 * MIB, MIB),
    embedder=Part(32 * MIB, 10 * MIB),
    embedder_row_bytes=11 * MIB,
    threads=2,
    sqlite_bytes=4 * MIB,
    ingest_bytes=12 * MIB,
    index_bytes=5 * MIB,
    worker=Part(17 * MIB, 22 * MIB, 8 * MIB),
    parser=Part(97 * MIB, 8 * MIB, 2 * MIB),
)


def limit(mib: float) -> Limit:
    return Limit(int(mib * MIB), "test")


def by_name(lines: tuple[budget.Line, ...]) -> dict[str, budget.Line]:
    return {line.name: line for line in lines}


def test_the_kv_cache_grows_with_context_sessions_and_prefixes() -> None:
    lines = by_name(budget.lines_of(PARTS, Use(1024, sessions=2, prefixes=3)))
    assert lines["KV cache"].bytes == 2 * 1024 * 46080
    assert lines["cached prefixes"].bytes == 3 * 1024 * 46080
    assert "46,080 bytes a token x 1024" in lines["KV cache"].why


def test_activations_grow_with_the_piece_and_logits_with_an_unpruned_head() -> None:
    def activations(**changes: object) -> int:
        parts = dataclasses.replace(PARTS, **changes)  # type: ignore[arg-type]
        return by_name(budget.lines_of(parts, Use(1024)))["activations"].bytes

    assert activations() == 128 * 63360 + 49152 * 4
    assert activations(prefill_chunk_tokens=4096) == 1024 * 63360 + 49152 * 4  # the whole prompt in one piece
    assert activations(pruned_head=False) == 128 * (63360 + 49152 * 4)


def test_mapped_files_are_held_against_the_budget_only_as_far_as_they_are_used() -> None:
    lines = by_name(budget.lines_of(PARTS, Use(1024)))
    assert lines["weights, mapped"].kind == "mapped"
    assert (lines["weights, mapped"].bytes, lines["weights, mapped"].kept) == (150 * MIB, 120 * MIB)
    assert lines["weights"].kept == lines["weights"].bytes == 20 * MIB


def test_retrieval_aside_is_gone_when_the_model_answers() -> None:
    use = Use(2048, one_question=True)
    beside, aside = (budget.peak(budget.lines_of(PARTS, use, aside=apart), kept=True) for apart in (False, True))
    gone = (PARTS.retrieval.private_bytes + PARTS.embedder.private_bytes + PARTS.sqlite_bytes + PARTS.index_bytes
            + PARTS.retrieval.hot_bytes)  # fmt: skip
    assert beside - aside == gone


def test_where_retrieval_takes_more_than_the_model_it_sets_the_peak() -> None:
    parts = dataclasses.replace(PARTS, embedder=Part(900 * MIB))
    lines = budget.lines_of(parts, Use(512, one_question=True), aside=True)
    always = sum(line.bytes for line in lines if line.phase == "always")
    retrieve = sum(line.bytes for line in lines if line.phase == "retrieve")
    assert retrieve > 900 * MIB
    assert budget.peak(lines) == always + retrieve


def test_the_weights_need_not_stay_while_the_documents_are_searched() -> None:
    """Between two questions: the prompt kept from the first stays, the pages of the weights can go and come back."""
    lines = budget.lines_of(PARTS, Use(1024), aside=True)
    without = [line for line in lines if line.group != "files of the model"]
    retrieve = sum(line.kept for line in lines if line.phase == "retrieve")
    assert budget.peak(lines, kept=True) - budget.peak(without, kept=True) == PARTS.weights.hot_bytes - retrieve


def test_everything_fits_a_large_budget() -> None:
    plan = budget.fit(PARTS, limit(4000), Use(2048, prefixes=2))
    assert (plan.use.context_tokens, plan.use.prefixes, plan.refusals) == (2048, 2, ())
    assert not plan.aside


def test_a_context_that_does_not_fit_is_cut_and_the_missing_bytes_are_named() -> None:
    need = budget.fit(PARTS, limit(4000), Use(2048)).kept_bytes - 60 * MIB  # of which 56 MiB are retrieval's
    plan = budget.fit(PARTS, Limit(need - 32 * MIB, "test"), Use(2048))
    (refusal,) = plan.refusals
    missing, fits = re.fullmatch(r"context 2048 needs (.+) more; (\d+) fits", refusal).groups()  # type: ignore[union-attr]
    assert plan.use.context_tokens == int(fits) < 2048
    assert int(fits) % 64 == 0
    # what it says would do does: with so much more, the whole context fits
    more = limit((need - 32 * MIB + parse_size(missing.replace(" ", ""))) / MIB + 1)
    assert budget.fit(PARTS, more, Use(2048)).use.context_tokens == 2048


@pytest.mark.parametrize("one_question", [False, True])
def test_retrieval_goes_aside_rather_than_cut_the_context(one_question: bool) -> None:
    wanted = Use(2048, one_question=one_question)
    need = budget.fit(PARTS, limit(4000), wanted).kept_bytes
    plan = budget.fit(PARTS, Limit(need - 45 * MIB, "test"), wanted)  # of which 22 MiB are a large budget's headroom
    assert plan.use.context_tokens == 2048
    assert plan.aside
    assert plan.refusals == ()


def test_a_prompt_is_read_in_smaller_pieces_rather_than_cut() -> None:
    assert budget.fit(PARTS, limit(4000), Use(2048)).use.piece_tokens == 128
    need = budget.peak(budget.lines_of(PARTS, Use(2048), aside=True), kept=True)
    plan = budget.fit(PARTS, Limit(need + 7 * MIB, "test"), Use(2048))
    assert plan.use.context_tokens == 2048
    assert (plan.aside, plan.use.piece_tokens) == (True, 64)
    assert f"pieces of {plan.use.piece_tokens} tokens" in by_name(plan.lines)["activations"].why
    tight = budget.fit(PARTS, Limit(need - 30 * MIB, "test"), Use(2048))
    assert tight.use.piece_tokens <= 32 and tight.use.context_tokens < 2048


def test_prefixes_take_what_the_context_leaves() -> None:
    need = budget.fit(PARTS, limit(4000), Use(2048)).kept_bytes
    plan = budget.fit(PARTS, Limit(need + 200 * MIB, "test"), Use(2048, prefixes=5))
    assert plan.use == Use(2048, prefixes=2, piece_tokens=128)
    assert re.fullmatch(r"5 cached prefixes need .+ more; 2 fit", plan.refusals[0])
    assert plan.kept_bytes <= plan.budget_bytes
    assert budget.most_prefixes(PARTS, plan) == 2


def test_sessions_take_what_the_context_leaves_and_prefixes_what_they_leave() -> None:
    need = budget.fit(PARTS, limit(4000), Use(2048)).kept_bytes
    plan = budget.fit(PARTS, Limit(need + 200 * MIB, "test"), Use(2048, sessions=4, prefixes=1))
    assert (plan.use.context_tokens, plan.use.sessions, plan.use.prefixes) == (2048, 3, 0)
    assert re.fullmatch(r"4 sessions at a time need .+ more; 3 fit", plan.refusals[0])
    assert re.fullmatch(r"1 cached prefixes need .+ more; 0 fit", plan.refusals[1])
    assert plan.kept_bytes <= plan.budget_bytes
    roomy = budget.fit(PARTS, limit(4000), Use(2048, sessions=4, prefixes=1))
    assert (roomy.use.sessions, roomy.use.prefixes, roomy.refusals) == (4, 1, ())


def test_guidance_is_counted_before_further_sessions_and_cut_with_a_note() -> None:
    parts = dataclasses.replace(PARTS, guidance_bytes=50 * MIB)
    plain = budget.fit(parts, limit(4000), Use(2048))
    need = plain.kept_bytes - plain.headroom_bytes
    wanted = Use(2048, sessions=2, guided=True)
    less = budget.fit(parts, Limit(need + 30 * MIB, "test"), wanted)
    assert (less.use.context_tokens, less.use.guided) == (2048, False)
    assert re.fullmatch(r"answers held to a schema need .+ more; they are refused", less.refusals[0])
    more = budget.fit(parts, Limit(need + 70 * MIB, "test"), wanted)
    assert (more.use.guided, more.use.sessions) == (True, 1)
    assert by_name(more.lines)["guided decoding"].bytes == 50 * MIB


def test_a_budget_smaller_than_the_weights_says_so() -> None:
    with pytest.raises(BudgetExceeded, match=r"the weights alone take 140\.0 MiB, which is more than") as caught:
        budget.fit(PARTS, limit(100), Use(2048))
    assert "the memory budget of 100.0 MiB (test)" in str(caught.value)


def test_a_budget_too_small_names_one_that_does() -> None:
    with pytest.raises(BudgetExceeded, match="too little to answer with: 512 tokens of context need") as caught:
        budget.fit(PARTS, limit(200), Use(2048))
    least = parse_size(str(caught.value).rpartition("need ")[2].replace(" ", ""))
    assert budget.fit(PARTS, Limit(least, "test"), Use(2048)).use.context_tokens >= 512
    with pytest.raises(BudgetExceeded):
        budget.fit(PARTS, Limit(least - MIB, "test"), Use(2048))


def test_a_context_beyond_the_bundle_s_own() -> None:
    plan = budget.fit(PARTS, limit(4000), Use(8192))
    assert plan.use.context_tokens == 2048
    assert plan.refusals == ("context 8192 is more than the bundle's own 2048",)


def test_a_short_context_that_was_asked_for_is_no_refusal() -> None:
    plan = budget.fit(PARTS, limit(4000), Use(200))
    assert (plan.use.context_tokens, plan.refusals) == (200, ())


def least_kept(use: Use) -> int:
    """What a use keeps in the way of working that keeps least."""
    uses = [dataclasses.replace(use, piece_tokens=piece) for piece in (128, 64, 32, 16)]
    return min(
        budget.peak(budget.lines_of(PARTS, one, aside=apart), kept=True) for one in uses for apart in (False, True)
    )


@given(
    mib=st.integers(200, 1200),
    context=st.integers(64, 4096),
    prefixes=st.integers(0, 4),
    one_question=st.booleans(),
    ingest=st.booleans(),
    sessions=st.integers(1, 3),
)
def test_what_is_said_to_fit_fits_and_the_next_step_does_not(
    mib: int, context: int, prefixes: int, one_question: bool, ingest: bool, sessions: int
) -> None:
    wanted = Use(context, sessions, prefixes, one_question=one_question, ingest=ingest)
    try:
        plan = budget.fit(PARTS, limit(mib), wanted)
    except BudgetExceeded:
        wanted = dataclasses.replace(wanted, context_tokens=min(512, context), sessions=1, prefixes=0)
        assert least_kept(wanted) + budget.headroom(mib * MIB) > mib * MIB
        return
    assert plan.kept_bytes <= plan.budget_bytes
    assert plan.use.context_tokens <= min(context, 2048)
    assert plan.use.prefixes <= prefixes and 1 <= plan.use.sessions <= sessions
    assert bool(plan.refusals) == (
        plan.use.context_tokens < context or plan.use.sessions < sessions or plan.use.prefixes < prefixes
    )
    if plan.use.sessions < sessions:
        more = dataclasses.replace(plan.use, sessions=plan.use.sessions + 1)
        lines = budget.lines_of(PARTS, more, aside=plan.aside)
        assert budget.peak(lines, kept=True) + plan.headroom_bytes > plan.budget_bytes
    if plan.use.context_tokens < min(context, 2048):
        longer = dataclasses.replace(wanted, context_tokens=plan.use.context_tokens + 64, sessions=1, prefixes=0)
        assert least_kept(longer) + plan.headroom_bytes > plan.budget_bytes


def test_the_parser_gets_what_an_ingest_leaves() -> None:
    room = budget.parser_room(PARTS, limit(400))
    others = [line for line in budget.ingest_lines(PARTS) if line.group != "parser"]
    assert room + budget.peak(others, kept=True) + budget.headroom(400 * MIB) == 400 * MIB
    with pytest.raises(BudgetExceeded, match="an ingest needs a memory budget of") as caught:
        budget.parser_room(PARTS, limit(100))
    least = re.search(r"of (\S+ MiB) and", str(caught.value))
    assert least is not None
    assert budget.parser_room(PARTS, Limit(parse_size(least[1].replace(" ", "")), "test")) >= PARTS.parser.private_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("256MiB", 256 * MIB), ("256 mib", 256 * MIB), ("1.5GiB", 1536 * MIB), ("1 KiB", 1024), ("300MB", 300_000_000),
        ("2GB", 2_000_000_000), ("64kB", 64_000), ("64KB", 64_000), ("100B", 100), ("268435456", 268435456),
        (268435456, 268435456), (" 1 GiB ", 2**30),
    ],
)  # fmt: skip
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "MiB", "256 M", "256Mib/s", "-1MiB", "0", "1.5", "1.5B", "1e9", "lots", "256,5MiB", "٣MiB", True, -5, "nan"],
)
def test_what_is_no_size(text: str | int) -> None:
    with pytest.raises(ValueError, match="is no size"):
        parse_size(text)


def test_packing_the_weights_is_refused_where_it_does_not_fit() -> None:
    assert budget.preparing_refusal(PARTS, limit(300)) is None
    refusal = budget.preparing_refusal(PARTS, limit(256))
    assert refusal is not None and "run `edge bundle prepare` while there is more" in refusal
