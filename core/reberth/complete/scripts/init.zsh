
# `runc migrate ID NODE:` and the same for crun: functions of this shell alone, so scripts keep the real programs.

__reberth_migrate_at() { # WORD...: sets REPLY to the place of the first word that is no option; fails if not migrate
    local -i i=1
    while (( i <= $# )); do
        case ${argv[i]} in
        (--root|--log|--log-format|--log-level|--criu|--rootless|--cgroup-manager) (( i += 2 )) ;;
        (-*) (( i += 1 )) ;;
        (*) break ;;
        esac
    done
    REPLY=$i
    [[ ${argv[i]-} == migrate ]]
}

__reberth_runtime() { # PROGRAM WORD...
    local tool=$1 REPLY
    shift
    if __reberth_migrate_at "$@"; then
        command reberth __runtime $tool "$@"
    else
        command $tool "$@"
    fi
}

function runc { __reberth_runtime runc "$@" }
function crun { __reberth_runtime crun "$@" }

typeset -gA __reberth_native # PROGRAM -> the function that completes it without us

_reberth_runtime() {
    local REPLY
    local -i at
    local -a before
    before=("${(@Q)words[2,CURRENT-1]}")
    if __reberth_migrate_at "${before[@]}"; then
        at=$REPLY
        _reberth_answer reberth __complete move --backend ${${words[1]}:t} "${(@)before[at+1,-1]}" "${(Q)PREFIX}"
        return
    fi
    local -i ret=1
    # the word under the cursor is the first one that is no option
    if (( REPLY == CURRENT - 1 )) && [[ $PREFIX != -* ]]; then
        compadd -- migrate && ret=0
    fi
    if [[ -n ${__reberth_native[$service]-} ]]; then
        ${(z)__reberth_native[$service]} && ret=0
    elif (( ret )); then
        _default && ret=0
    fi
    return ret
}

if (( $+functions[compdef] )); then
    for REPLY in runc crun; do
        [[ -n ${_comps[$REPLY]-} && ${_comps[$REPLY]} != _reberth_runtime ]] && __reberth_native[$REPLY]=${_comps[$REPLY]}
    done
    compdef _reberth_runtime runc crun
fi
