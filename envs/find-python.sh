#!/bin/sh
# Print the newest Python that the lock files serve, or name all that this machine lacks before anything is downloaded.
# Usage: find-python.sh [PYTHON]. What the environment takes, with the CPU build of torch, are the gigabytes.
served="3.13 3.12 3.11"
gigabytes=3
candidates=${1:-$(for version in $served; do printf 'python%s ' "$version"; done) python3}
lacks=""
found=""
seen=""

# A name on the path may be a launcher of a version that is not installed, so each is run.
for candidate in $candidates; do
    version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null) || continue
    case " $served " in
        *" $version "*)
            seen=$candidate
            if "$candidate" -c 'import ensurepip, venv' 2> /dev/null; then
                found=$candidate
                break
            fi
            ;;
    esac
done
if [ -z "$found" ]; then
    if [ -n "$seen" ]; then
        lacks="$lacks
  - the venv module of $seen (on Debian: apt-get install $(basename "$seen")-venv)"
    else
        lacks="$lacks
  - one of Python $served (tried: $(echo $candidates); on Debian: apt-get install python3 python3-venv)"
    fi
fi
free=$(df -Pk . | awk 'NR == 2 { print int($4 / 1048576) }')
if [ ! -d .venv ] && [ "$free" -lt "$gigabytes" ]; then
    lacks="$lacks
  - $gigabytes GB of free space here, where $free GB are left"
fi
if [ -n "$lacks" ]; then
    echo "lm-headroom cannot be installed. This machine lacks:$lacks" >&2
    exit 1
fi
echo "$found"
