"""Which real training programs work under the callback, and is what it records of them true?

    pip install -r examples/clients/requirements.txt
    python examples/clients/run.py                 # all; a library that is not there is left out
    python examples/clients/run.py timm monai      # some, the rest of the results as they were
    python examples/clients/run.py --page-only     # the table of docs/clients.md, nothing is run

Writes docs/results/clients.json and the tables of docs/clients.md. `_check.py` says what is
compared with what; `_programs/` holds the clients, one file for each library.
"""

import argparse
import importlib
import json
import logging
import os
import re
import warnings
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from _check import Client, check

DOCS = Path(__file__).parents[2] / "docs"
RESULTS = DOCS / "results" / "clients.json"
PAGE = DOCS / "clients.md"
PLACE = re.compile(r"(<!-- table: clients -->\n).*?(<!-- end -->)", re.DOTALL)
#: File in `_programs` -> the library's name in the registry.
LIBRARIES = {
    "lightning": "lightning",
    "hugging_face": "transformers",
    "timm": "timm",
    "torchvision": "torchvision",
    "segmentation_models": "segmentation-models-pytorch",
    "monai": "monai",
    "lightly": "lightly",
    "metric_learning": "pytorch-metric-learning",
    "geometric": "torch-geometric",
    "forecasting": "pytorch-forecasting",
}


def run(program: str) -> dict[str, Any] | None:
    """Check a library's clients; None if it is not installed."""
    try:
        version(LIBRARIES[program])
        clients: list[Client] = importlib.import_module(f"_programs.{program}").CLIENTS
    except (PackageNotFoundError, ModuleNotFoundError) as error:
        print(f"{program}: left out, {error}")
        return None
    found = []
    for client in clients:
        result = check(client)
        found.append(asdict(result))
        print(f"{program}: {client.what}: {result.verdict}, {result.seconds} s", flush=True)
    return {"version": version(LIBRARIES[program]), "clients": found}


def shown(found: dict[str, Any]) -> str:
    """Say in a table's cell how a client was found to behave."""
    if found["message"]:
        message = " ".join(found["message"].split()).removeprefix("DynamicPruningCallback: ")
        # What was expected and what came; the way out, and what stands in brackets, is in the JSON.
        told = re.sub(r" \([^)]* [^)]*\)", "", message.split(". ")[0]).replace("|", "\\|")
        before = found["batches_before"]
        return f"after {before} batches: {told}" if before else told
    if found["loss_error"] is None:
        return f"{found['passes']:.2f} of the passes; nothing to compare sample by sample"
    # Below the rounding of float32 differences say nothing.
    told = f"losses within {max(found['loss_error'], 1e-7):.0e}"
    if found["gradient_error"] is not None:
        told += f", weighted gradient within {max(found['gradient_error'], 1e-7):.0e}"
    if found["verdict"] == "wrong":
        return f"{told}; correlation {found['correlation']:.2f}"
    return f"{told}; {found['passes']:.2f} of the passes"


def table(results: dict[str, Any]) -> str:
    """Return a section and a Markdown table for each library."""
    lines = [
        f"Lightning {results['lightning']}, torch {results['torch']}, "
        f"{count(results, 'works')} work, {count(results, 'refused')} are refused, "
        f"{count(results, 'wrong')} go on with wrong losses or weights, "
        f"{count(results, 'fails')} fail otherwise.",
    ]
    for program, name in LIBRARIES.items():
        library = results["libraries"].get(program)
        if library is None:
            continue
        lines += ["", f"## {name} {library['version']}", "", "| what was run | | how |"]
        lines += ["|---|---|---|"]
        lines += [f"| {c['what']} | {c['verdict']} | {shown(c)} |" for c in library["clients"]]
    return "\n".join(lines)


def count(results: dict[str, Any], verdict: str) -> int:
    found = [c for library in results["libraries"].values() for c in library["clients"]]
    return sum(client["verdict"] == verdict for client in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("programs", nargs="*", metavar="program", help=", ".join(LIBRARIES))
    parser.add_argument("--page-only", action="store_true", help="write the table, run nothing")
    args = parser.parse_args()
    if unknown := set(args.programs) - set(LIBRARIES):
        parser.error(f"unknown {sorted(unknown)}; there are {list(LIBRARIES)}")
    torch.set_num_threads(1)  # the networks are tiny
    os.environ["HF_HUB_OFFLINE"] = "1"
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"libraries": {}}
    if not args.page_only:
        results |= {"lightning": pl.__version__, "torch": torch.__version__}
        for program in args.programs or LIBRARIES:
            if (found := run(program)) is not None:
                results["libraries"][program] = found
                RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    PAGE.write_text(PLACE.sub(lambda m: f"{m[1]}\n{table(results)}\n\n{m[2]}", PAGE.read_text()))


if __name__ == "__main__":
    main()
