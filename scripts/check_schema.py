"""Holds the sweep files to the JSON Schema that `sweep schema` prints, as an editor would.

    pip install jsonschema pyyaml
    python scripts/check_schema.py [SWEEP] [FILE...]     # SWEEP: the program, target/release/sweep by default
"""

import json
import pathlib
import subprocess
import sys

import jsonschema
import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent

# What each file below is refused for, by the schema alone.
WRONG = [
    "bsae: {}",
    "base: { tua: 0.9 }",
    "base: { tau: 2 }",
    "base: { label_ratio: 0.1 }",
    "base: { label_ratio: ten }",
    "name: ../up",
    "grid: { tau: { values: [0.9] } }",
]


def main() -> int:
    program = sys.argv[1] if len(sys.argv) > 1 else ROOT / "target/release/sweep"
    files = [pathlib.Path(name) for name in sys.argv[2:]] or sorted((ROOT / "sweeps").glob("*.yaml"))
    schema = json.loads(subprocess.run([program, "schema"], check=True, capture_output=True).stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    bad = 0
    for file in files:
        for error in validator.iter_errors(yaml.safe_load(file.read_text())):
            print(f"{file}: {error.json_path}: {error.message}")
            bad += 1
    for text in WRONG:
        if validator.is_valid(yaml.safe_load(text)):
            print(f"the schema accepts {text!r}")
            bad += 1
    print(f"{len(files)} files, {len(WRONG)} wrong ones: {bad} problems")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
