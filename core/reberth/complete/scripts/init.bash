
# `runc migrate ID NODE:` and the same for crun: functions of this shell alone, so scripts keep the real programs.

__reberth_migrate_at() { # WORD...: prints the place of the first word that is no option, and fails if it is not migrate
    local i
    for ((i = 1; i <= $#; i++)); do
        case ${!i} in
        --root | --log | --log-format | --log-level | --criu | --rootless | --cgroup-manager) ((i++)) ;;
        -*) ;;
        *) break ;;
        esac
    done
    echo "$i"
    [[ ${!i-} == migrate ]]
}

__reberth_runtime() { # PROGRAM WORD...
    local tool=$1
    shift
    if __reberth_migrate_at "$@" >/dev/null; then
        command reberth __runtime "$tool" "$@"
    else
        command "$tool" "$@"
    fi
}

function runc { __reberth_runtime runc "$@"; }
function crun { __reberth_runtime crun "$@"; }

declare -gA __reberth_native # PROGRAM -> the function that completes it without us, `-` for none

__reberth_load_native() { # PROGRAM
    local spec=
    if declare -F _comp_load >/dev/null; then
        _comp_load "$1" >/dev/null 2>&1 # bash-completion 2.12 and later
    elif declare -F __load_completion >/dev/null; then
        __load_completion "$1" >/dev/null 2>&1
    fi
    spec=$(complete -p "$1" 2>/dev/null)
    [[ $spec =~ -F\ ([^ ]+) && ${BASH_REMATCH[1]} != __reberth_* ]] && __reberth_native[$1]=${BASH_REMATCH[1]}
    : "${__reberth_native[$1]:=-}"
    complete -o default -o bashdefault -F __reberth_runtime_complete "$1"
}

__reberth_runtime_complete() { # PROGRAM FRAGMENT PREVIOUS
    local __reberth_raw at last
    local -a __reberth_words
    __reberth_split "${COMP_LINE:0:COMP_POINT}"
    while ((${#__reberth_words[@]} > 1)) && [[ ${__reberth_words[0]} != "$1" ]]; do
        __reberth_words=("${__reberth_words[@]:1}")
    done
    last=$((${#__reberth_words[@]} - 1))
    if at=$(__reberth_migrate_at "${__reberth_words[@]:1}") && ((at < last)); then
        compopt +o default +o bashdefault 2>/dev/null
        __reberth_answer reberth __complete move --backend "${1##*/}" "${__reberth_words[@]:at+1}"
        return
    fi
    [[ -n ${__reberth_native[$1]-} ]] || __reberth_load_native "$1"
    COMPREPLY=()
    [[ ${__reberth_native[$1]} == - ]] || "${__reberth_native[$1]}" "$@"
    if ((at == last)) && [[ migrate == "${__reberth_words[last]}"* ]]; then
        COMPREPLY+=(migrate)
    fi
}

__reberth_keep_native() { # PROGRAM: remember what somebody registered before us
    local spec
    spec=$(complete -p "$1" 2>/dev/null) || spec=
    if [[ $spec =~ -F\ ([^ ]+) && ${BASH_REMATCH[1]} != __reberth_* && ${BASH_REMATCH[1]} != _comp_complete_load ]]; then
        __reberth_native[$1]=${BASH_REMATCH[1]}
    fi
    complete -o default -o bashdefault -F __reberth_runtime_complete "$1"
}
__reberth_keep_native runc
__reberth_keep_native crun
