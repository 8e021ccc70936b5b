# Sourced by run and test: a Python that is new enough, in a virtual environment, with what is needed.
#
#   use_environment <requirements file> [options of pip install]
#                                          sets $python; makes .venv unless one is already in use

fail() {
    echo "error: $*" >&2
    exit 1
}

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

in_virtual_environment() {
    "$1" -c 'import sys; sys.exit(sys.prefix == sys.base_prefix)' 2>/dev/null
}

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python; do
        if [[ -n "$candidate" ]] && is_new_enough "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "Python 3.11 or newer is needed, found $(python3 --version 2>/dev/null || echo none):" \
        "install one, or name it, as in PYTHON=/path/to/python3.12 $0"
}

install() {
    "$python" -m pip install --quiet --disable-pip-version-check "$@" ||
        fail "packages could not be installed, see the lines above: $*"
}

use_environment() {
    local requirements=$1 found stamp wanted
    shift
    found=$(find_python)
    if in_virtual_environment "$found"; then
        python=$found
    else
        python=$PWD/.venv/bin/python
        if ! is_new_enough "$python"; then
            echo "Making a virtual environment in .venv"
            "$found" -m venv --clear .venv ||
                fail "no virtual environment could be made: on Debian, install python3-venv"
        fi
    fi
    # The stamp spares later starts the seconds that pip takes to find nothing to do.
    wanted=$(cat requirements*.txt | cksum)
    stamp=.venv/installed-$requirements
    if [[ "$python" == "$PWD/.venv/bin/python" && -f "$stamp" && "$(<"$stamp")" == "$wanted" ]]; then
        return
    fi
    echo "Installing $requirements"
    if [[ "$python" == "$PWD/.venv/bin/python" ]]; then
        # Half the work of the pip that comes with Python 3.11.
        install 'pip>=26'
    fi
    install "$@" -r "$requirements"
    if [[ "$python" == "$PWD/.venv/bin/python" ]]; then
        echo "$wanted" >"$stamp"
    fi
}
