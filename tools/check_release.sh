#!/usr/bin/env bash
# Builds dist/, checks it, and runs the README's first lines from the wheel in an empty environment.
# Needs `pip install build twine`.
set -euo pipefail
cd "$(dirname "$0")/.."
unset PYTHONPATH
repository=$PWD

rm -rf dist
python -m build
python -m twine check --strict dist/*

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python -m venv "$work/venv"
began=$(date +%s)
"$work/venv/bin/python" -m pip install --quiet -c constraints.txt dist/*.whl
installed=$(date +%s)
sed -n '/^```python$/,/^```$/p' README.md | sed -n '2,/^```$/p' | sed '$d' > "$work/first.py"
cd "$work"
venv/bin/python first.py
test -s aligned.png
venv/bin/python -c "import avae, pathlib; assert pathlib.Path(avae.__file__).is_relative_to('$work'), avae.__file__"
venv/bin/python -c "import avae; avae.load('furniture')"
venv/bin/avae --help > /dev/null
echo "installed in $((installed - began)) s; the first lines of the README in $(($(date +%s) - installed)) s"
ls -l "$repository"/dist
