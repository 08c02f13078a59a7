from __future__ import annotations

import itertools
import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.config import ChunkConfig
from edge.errors import DocumentError
from edge.ingest.chunk import chunk, embedding_text
from edge.ingest.lines import joined_lines, soft_ends, without_soft_ends
from edge.ingest.summary import summarise
from edge.types import Block, BlockKind, Chunk, Document

Piece = tuple[BlockKind, str, tuple[str, ...], int | None]


def words(text: str) -> int:
    """A tokenizer that splits at spaces and punctuation and adds two special tokens, as BERT's does."""
    return 2 + len(re.findall(r"\w+|[^\w\s]", text))


def letters(text: str) -> int:
    """A tokenizer whose counts do not add up over words: pairs of characters, spaces included."""
    return 1 + (len(text) + 1) // 2


def document(*pieces: Piece, title: str = "Title") -> Document:
    text, blocks = "", []
    for kind, body, headings, page in pieces:
        blocks.append(Block(len(text), len(text) + len(body), kind, headings, page))
        text += body + "\n\n"
    return Document("/x.txt", "0" * 64, "txt", title, text, tuple(blocks), "en", "2026-01-01")


def prose(count: int, start: int = 0) -> str:
    return " ".join(f"Sentence number {i} says that pump {i} is fine." for i in range(start, start + count))


def check(made: list[Chunk], source: Document, config: ChunkConfig, count: Callable[[str], int]) -> None:
    covered = bytearray(len(source.text))
    for ordinal, one in enumerate(made):
        assert one.ordinal == ordinal
        assert one.text == source.text[one.start : one.end] == one.text.strip() != ""
        assert len(one.text) == 1 or count(embedding_text(source.title, one)) <= config.max_tokens
        covered[one.start : one.end] = b"\1" * (one.end - one.start)
    assert [(a.start, a.end) for a in made] == sorted({(a.start, a.end) for a in made})
    assert all(later.end > earlier.end for earlier, later in itertools.pairwise(made))
    for block in source.blocks:
        missing = [i for i in range(block.start, block.end) if not covered[i]]
        assert not "".join(source.text[i] for i in missing).strip()


HEADINGS = st.sampled_from([(), ("One",), ("One", "Two"), ("A heading of quite some words, and more",), ("x" * 200,)])
BODY = st.one_of(
    st.text(st.sampled_from("ab .!?\n\t;:-é漢🙂|#"), min_size=1, max_size=400),
    st.integers(1, 40).map(prose),
    st.text(min_size=1, max_size=60),
).map(str.strip)
PIECES = st.lists(
    st.tuples(
        st.sampled_from(["text", "text", "heading", "row"]), BODY.filter(bool), HEADINGS, st.sampled_from([None, 1, 2])
    ),
    max_size=8,
)


@settings(max_examples=150, deadline=None)
@given(PIECES, st.integers(16, 80), st.floats(0, 1, exclude_max=True), st.sampled_from([words, letters]))
def test_properties(
    pieces: list[tuple[BlockKind, str, tuple[str, ...], int | None]],
    limit: int,
    share: float,
    count: Callable[[str], int],
) -> None:
    """Spans exact, in order, covering all that is not blank; the limit held; the same again the second time."""
    source, config = document(*pieces, title="T"), ChunkConfig(limit, int(share * (limit // 2)))
    made = chunk(source, config, count)
    check(made, source, config, count)
    assert chunk(source, config, count) == made


def test_trailing_headings_that_do_not_fit_repeat_no_text() -> None:
    """The estimate said that they fit with the last sentence, the exact count did not: its halves were in the chunk."""
    source = document(("text", prose(11), (), None), ("heading", ":", (), None), title="T")
    config = ChunkConfig(25, 0)
    check(chunk(source, config, letters), source, config, letters)


def test_small_blocks_of_a_section_are_packed_and_sections_are_not() -> None:
    source = document(
        ("text", "One.", ("A",), 1),
        ("text", "Two.", ("A",), 1),
        ("text", "Three.", ("A",), 2),
        ("text", "Four.", ("B",), 2),
    )
    made = chunk(source, ChunkConfig(), words)
    assert [(c.text, c.headings, c.page) for c in made] == [
        ("One.\n\nTwo.", ("A",), 1),
        ("Three.", ("A",), 2),
        ("Four.", ("B",), 2),
    ]


def test_overlap_is_whole_sentences_of_the_same_section() -> None:
    source = document(("text", prose(60), ("A",), None), ("text", prose(3, 100), ("B",), None))
    made = chunk(source, ChunkConfig(100, 30), words)
    check(made, source, ChunkConfig(100, 30), words)
    for before, after in itertools.pairwise(made):
        shared = source.text[after.start : before.end]
        if after.headings == ("B",):
            assert not shared
        else:
            assert shared.startswith("Sentence") and shared.endswith(".") and words(shared) <= 32
    assert all(c.text.startswith("Sentence") and c.text.endswith(".") for c in made)
    without = chunk(source, ChunkConfig(100, 0), words)
    assert all(b.start > a.end for a, b in itertools.pairwise(without))


def test_chunks_are_well_filled() -> None:
    source = document(("text", prose(300), (), None))
    sizes = [words(embedding_text("Title", c)) for c in chunk(source, ChunkConfig(), words)]
    limit = ChunkConfig().max_tokens
    assert min(sizes[:-1]) > 0.85 * limit and max(sizes) <= limit


def test_a_heading_goes_with_what_follows() -> None:
    source = document(
        ("heading", "# One", (), None),
        ("heading", "## Two", ("One",), None),
        ("text", "Body.", ("One", "Two"), None),
        ("heading", "## Rows", ("One",), None),
        ("row", "a: 1", ("One", "Rows"), None),
        ("row", "a: 2", ("One", "Rows"), None),
        ("heading", "## Empty", ("One",), None),
        ("heading", "## End", ("One",), None),
    )
    made = chunk(source, ChunkConfig(), words)
    assert [c.text for c in made] == ["# One\n\n## Two\n\nBody.", "## Rows\n\na: 1", "a: 2\n\n## Empty\n\n## End"]
    assert [c.headings for c in made] == [("One", "Two"), ("One", "Rows"), ("One", "Rows")]
    assert [embedding_text("Manual", c).split("\n")[0] for c in made] == [
        "Manual",
        "Manual > One",
        "Manual > One > Rows",
    ]


def test_trailing_heading_is_never_alone() -> None:
    source = document(("text", prose(9), (), None), ("heading", "A heading of a few words", (), None))
    made = chunk(source, ChunkConfig(100, 0), words)
    assert made[-1].text.startswith("Sentence number") and made[-1].text.endswith("words")


def test_rows_stay_whole_and_alone_unless_too_long() -> None:
    long = "; ".join(f"column {i}: value {i}" for i in range(60))
    source = document(("row", "a: 1", (), None), ("row", long, (), None), ("row", "a: 2", (), None))
    made = chunk(source, ChunkConfig(100, 40), words)
    check(made, source, ChunkConfig(100, 40), words)
    assert made[0].text == "a: 1" and made[-1].text == "a: 2" and len(made) > 4
    assert all(c.text.endswith(";") for c in made[1:-2])  # cut between the columns


def test_wrapped_prose_is_cut_at_sentences_and_logs_at_lines() -> None:
    wrapped = re.sub(r"(.{60,70}) ", r"\1\n", prose(60))
    assert "\n" in wrapped
    for one in chunk(document(("text", wrapped, (), None)), ChunkConfig(80, 0), words):
        assert one.text.startswith("Sentence") and one.text.endswith(".")
    log = "\n".join(f"2026-01-{i % 28 + 1:02} pump {i} stopped without any reason" for i in range(80))
    for one in chunk(document(("text", log, (), None)), ChunkConfig(80, 0), words):
        assert one.text.startswith("2026") and one.text.endswith("reason")


def test_heading_line_leaves_out_what_the_text_says() -> None:
    one = Chunk(0, 0, 9, "# One\n\nBody", ("One", "Two"))
    assert embedding_text("Manual", one) == "Manual > Two\n# One\n\nBody"
    assert embedding_text("", Chunk(0, 0, 4, "Body")) == "Body"
    assert (
        embedding_text("Same", Chunk(0, 0, 4, "Body", ("Same", "x" * 500))).split("\n")[0] == "Same > " + "x" * 79 + "…"
    )


def test_long_heading_paths_give_way_to_text() -> None:
    path = tuple(f"Chapter {i} with a longish heading" for i in range(8))
    (made,) = chunk(document(("text", "Body.", path, None)), ChunkConfig(48, 0), words)
    assert made.headings == path[-len(made.headings) :] and 0 < len(made.headings) < 8
    with pytest.raises(DocumentError, match=r"title takes .* ingest\.chunk\.max_tokens"):
        chunk(document(("text", "Body.", (), None), title="a b c d e f g h i j k l m n o p"), ChunkConfig(16, 0), words)


def test_tokenizer_sees_the_text_only_a_few_times() -> None:
    """Speed without a clock: a long article costs little more than tokenizing it once and its overlaps again."""
    seen = 0

    def counting(text: str) -> int:
        nonlocal seen
        seen += len(text)
        return words(text)

    source = document(*(("text", prose(20, 20 * i), ("A",), None) for i in range(25)))
    chunk(source, ChunkConfig(), counting)
    assert len(source.text) > 20_000 and seen < 2 * len(source.text)


def test_no_text_no_chunks() -> None:
    assert chunk(document(), ChunkConfig(), words) == []


def test_soft_line_ends() -> None:
    lines = [
        "A line of prose that was wrapped because it",
        "was full, and it ends here.",
        "Short",
        "- item of a list that is as long as a full",
    ]
    assert soft_ends(lines) == [True, False, False]
    text = "\n".join(lines)
    assert len(without_soft_ends(text)) == len(text) and without_soft_ends(text).count("\n") == 2
    assert joined_lines(text) == [f"{lines[0]} {lines[1]}", f"{lines[2]}\n{lines[3]}"]


def test_summary_takes_central_sentences_in_order() -> None:
    themes = [
        "The pump moves water from the well.",
        "The pump needs oil each month.",
        "Bananas are yellow fruits, mostly.",
    ]
    source = document(*(("text", f"{theme} More on {i}.", (f"H{i}",), None) for i, theme in enumerate(themes * 3)))
    chunks = chunk(source, ChunkConfig(), words)
    vectors = np.array([[1, 0, 0.1], [0.9, 0.44, 0], [0, 0, 1]] * 3, dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    made = summarise(source, chunks, vectors, max_tokens=24, count_tokens=words)
    assert made is not None and made.kind == "summary" and made.ordinal == 9
    assert (made.start, made.end) == (chunks[0].start, chunks[-1].end)
    assert made.text == "\n".join(themes[:2])
    assert words(embedding_text(source.title, made)) <= 24
    assert summarise(source, chunks[:2], vectors[:2], max_tokens=24, count_tokens=words) is None
    with pytest.raises(ValueError, match="9 chunks need as many vectors"):
        summarise(source, chunks, vectors[:4], max_tokens=24, count_tokens=words)
