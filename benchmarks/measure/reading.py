"""Would `datasets` read plain text and JSON lines as well as `training.data` does?

Run from the repository's root: ``python -m benchmarks.measure.reading``. Reads the standard
library's source, a file a document and as JSON lines, by both, in turns; and looks at what a reader
must get right. Prints the result and writes benchmarks/results/reading.json.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import datasets

from benchmarks.record import begin, command_line, write_json
from benchmarks.timing import Spread, interleaved_seconds, median, ratio
from training.data.documents import find_sources, read_documents

FILES = 400
ROWS_BEFORE_A_NEW_FIELD = 12_000
"""Of a kilobyte each: more than the 10 MB from which `datasets` takes the fields of a file."""


def by_datasets(kind: str, paths: Sequence[pathlib.Path], **options: Any) -> list[str]:
    """The texts of files, by the library's reader of a kind."""
    files = list(map(str, paths))
    rows = datasets.load_dataset(
        kind, data_files=files, split="train", streaming=True, **options
    ).select_columns("text")
    return [row["text"] for row in rows]


def by_hand(data: pathlib.Path) -> list[str]:
    """The texts of a file or folder, by `training.data`."""
    return [document.text for document in read_documents(find_sources(str(data)))]


def write_corpus(folder: pathlib.Path) -> tuple[list[pathlib.Path], pathlib.Path]:
    """Text files with the ends of lines of both worlds, and the same texts as JSON lines."""
    texts = [document.text for document in read_documents(find_sources("stdlib"))][:FILES]
    texts[0] = texts[0].replace("\n", "\r\n")
    paths = [folder / "texts" / f"{i:04}.txt" for i in range(len(texts))]
    paths[0].parent.mkdir()
    for path, text in zip(paths, texts, strict=True):
        path.write_bytes(text.encode())
    lines = folder / "lines.jsonl"
    lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
    return paths, lines


def takes_a_late_field(read: Callable[[pathlib.Path], list[str]], folder: pathlib.Path) -> bool:
    """Whether valid JSON lines are read in which a field comes up after ten megabytes."""
    path = folder / "late.jsonl"
    row = json.dumps({"text": "x" * 1000}) + "\n"
    last = json.dumps({"text": "the end", "source": "elsewhere"}) + "\n"
    path.write_text(row * ROWS_BEFORE_A_NEW_FIELD + last, "utf-8")
    try:
        return read(path)[-1] == "the end"
    except Exception as error:  # whatever the library raises is what is measured here
        print(f"{type(error).__name__}: {str(error).splitlines()[0]}")
        return False


def import_datasets() -> None:
    """In a process of its own."""
    subprocess.run([sys.executable, "-c", "import datasets"], check=True)


def start_python() -> None:
    """What a process costs that imports nothing."""
    subprocess.run([sys.executable, "-c", "pass"], check=True)


def measure(rounds: int) -> dict[str, Any]:
    """Times and checks."""
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        paths, lines = write_corpus(folder)
        readers = {
            "text by hand": lambda: by_hand(paths[0].parent),
            "text by datasets": lambda: by_datasets("text", paths, sample_by="document"),
            "lines by hand": lambda: by_hand(lines),
            "lines by datasets": lambda: by_datasets("json", [lines]),
            "import datasets": import_datasets,
            "start Python": start_python,
        }
        samples = interleaved_seconds(readers, rounds)
        exact = by_hand(lines)
        return {
            "files": len(paths),
            "text_bytes": sum(path.stat().st_size for path in paths),
            "seconds": samples,
            "datasets_over_hand": {
                kind: ratio(samples, f"{kind} by datasets", f"{kind} by hand")
                for kind in ("text", "lines")
            },
            "same_text": {name: readers[name]() == exact for name in readers if " by " in name},
            "takes_a_late_field": {
                "by hand": takes_a_late_field(by_hand, folder),
                "by datasets": takes_a_late_field(lambda p: by_datasets("json", [p]), folder),
            },
        }


def sentence(results: dict[str, Any]) -> str:
    """The results in words, for docs/training.md."""
    times = {kind: Spread(*row) for kind, row in results["datasets_over_hand"].items()}
    importing, python = (median(results["seconds"][x]) for x in ("import datasets", "start Python"))
    changed = not results["same_text"]["text by datasets"]
    refused = not results["takes_a_late_field"]["by datasets"]
    return (
        f"Of {results['files']} files ({results['text_bytes'] / 1e6:.1f} MB) the library takes "
        f"{times['text']:.1f} times as long for plain text"
        f"{', whose ends of lines it rewrites,' * changed} and {times['lines']:.1f} times for JSON "
        f"lines{', of which it refuses a valid file with a field that comes late' * refused}; its "
        f"import takes {importing - python:.1f} s."
    )


def main() -> None:
    """Measures, prints and writes the results."""
    options = begin(command_line(__doc__, "reading"))
    results = measure(options.rounds)
    write_json(options.out, results, options.commit)
    print(sentence(results))


if __name__ == "__main__":
    main()
