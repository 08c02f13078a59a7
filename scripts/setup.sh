# Sourced by quickstart and test: makes .venv in the checkout and installs the project into it. Not run by itself.
#
# PYTHON        the interpreter to make .venv with (default: python3)
# TORCH_INDEX   a package index that serves CPU builds of torch (what --torch-index of both scripts sets)

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# setup EXTRAS: install the project with these extras. Its modules are compiled at once: a start of `edge` takes 0.1 s
# more without, and whoever runs it later may not be allowed to write here.
setup() {
  install_packages "$1"
  .venv/bin/python -m compileall -q edge optimize
}

# install_packages EXTRAS: unless that was done for this pyproject.toml already. "dev" brings all the others along, so
# what scripts/test has set up serves the quickstart too.
install_packages() {
  local extras=$1 python=${PYTHON:-python3} stamp done
  command -v "$python" >/dev/null || die "no $python: install Python 3.11 or newer, or set PYTHON"
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "$("$python" --version) is too old: install Python 3.11 or newer, or set PYTHON"
  if [ ! -x .venv/bin/python ] || ! .venv/bin/python -c pass 2>/dev/null; then
    say "making .venv"
    "$python" -m venv --clear .venv || die "python -m venv failed (Debian and Ubuntu: apt install python3-venv)"
  fi
  stamp=.venv/.installed-$(printf '%s' "$extras" | tr ',' '-')
  for done in "$stamp" .venv/.installed-documents-optimize-dev; do
    if [ -e "$done" ] && cmp -s pyproject.toml "$done"; then return; fi
  done
  # torch first and on its own: a later requirement is then satisfied, and pip never picks a build with CUDA.
  if [[ $extras == *optimize* ]]; then install_torch; fi
  say "installing edge-slm[$extras] (a minute or two)"
  .venv/bin/python -m pip install --quiet --progress-bar off --disable-pip-version-check -e ".[$extras]" ||
    die "the installation failed: see pip's message above"
  cp pyproject.toml "$stamp"
}

install_torch() {
  local version=2.13.0 index=()
  if .venv/bin/python -c "import importlib.metadata as m, sys; sys.exit(not m.version('torch').startswith('$version'))" 2>/dev/null; then
    return
  fi
  if [ -n "${TORCH_INDEX:-}" ]; then index=(--index-url "$TORCH_INDEX"); fi
  # What pip would take is looked at before it is taken: a build with CUDA brings gigabytes that a CPU build never uses.
  if ! .venv/bin/python -m pip install --quiet --disable-pip-version-check --dry-run --no-deps --ignore-installed \
      --report .venv/torch.json "${index[@]}" "torch==$version"; then
    die "torch $version cannot be found: is the package index reachable?"
  fi
  if ! .venv/bin/python - <<'PY'
import json, sys
item = json.load(open(".venv/torch.json"))["install"][0]
needs = " ".join(item["metadata"].get("requires_dist") or [])
sys.exit("nvidia" in needs or "cuda" in needs)
PY
  then
    die "the package index serves torch $version with CUDA (gigabytes, of no use here). Give an index of CPU builds:
    scripts/quickstart --torch-index https://download.pytorch.org/whl/cpu (scripts/test takes the option too)"
  fi
  say "installing torch $version (CPU)"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check "${index[@]}" "torch==$version" ||
    die "torch could not be installed"
}
