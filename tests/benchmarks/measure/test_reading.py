"""Both readers of text by the same questions."""

from benchmarks.measure.reading import by_datasets, by_hand, sentence, takes_a_late_field

RESULTS = {
    "files": 2,
    "text_bytes": 3_000_000,
    "seconds": {"import datasets": [2.5], "start Python": [0.5]},
    "datasets_over_hand": {"text": [4.0, 3.0, 5.0], "lines": [2.0, 1.5, 2.5]},
}


def test_only_texts_that_are_read_as_they_are_count_as_the_same(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"one\r\ntwo\r\n")
    assert by_hand(path) == ["one\r\ntwo\r\n"]
    assert by_datasets("text", [path], sample_by="document") != by_hand(path)
    path = tmp_path / "lines.jsonl"
    path.write_text('{"text": "one\\r\\n"}\n{"text": "two"}\n')
    assert by_datasets("json", [path]) == by_hand(path) == ["one\r\n", "two"]
    assert takes_a_late_field(by_hand, tmp_path)


def test_the_sentence_says_what_was_found():
    same = {"same_text": {"text by datasets": True}, "takes_a_late_field": {"by datasets": True}}
    text = sentence(RESULTS | same)
    assert "rewrites" not in text
    assert "refuses" not in text
    other = {"same_text": {"text by datasets": False}, "takes_a_late_field": {"by datasets": False}}
    text = sentence(RESULTS | other)
    assert "plain text, whose ends of lines it rewrites, and" in text
    assert "refuses a valid file" in text
    assert text.endswith("its import takes 2.0 s.")
