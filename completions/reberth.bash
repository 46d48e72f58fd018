# Completion of reberth for bash. It asks `reberth __complete` and needs no other completion package.
# The words are taken from the line itself: COMP_WORDS is broken at every colon, and NODE:NAME has one.

__reberth_split() { # LINE: sets __reberth_words (without quotes) and __reberth_raw, the last word as it was typed
    local line=$1 quote= word= char i
    __reberth_words=() __reberth_raw=
    for ((i = 0; i < ${#line}; i++)); do
        char=${line:i:1}
        if [[ -z $quote && $char == [$' \t\n'] ]]; then
            [[ -n $__reberth_raw ]] && __reberth_words+=("$word")
            word= __reberth_raw=
            continue
        fi
        __reberth_raw+=$char
        if [[ $char == \\ && $quote != \' ]]; then
            ((i++))
            word+=${line:i:1} __reberth_raw+=${line:i:1}
        elif [[ -z $quote && $char == [\'\"] ]]; then
            quote=$char
        elif [[ -n $quote && $char == "$quote" ]]; then
            quote=
        else
            word+=$char
        fi
    done
    __reberth_words+=("$word")
}

__reberth_answer() { # PROGRAM WORD...: puts the candidates for the last word into COMPREPLY
    local cut= char value flags=0
    local -a lines
    mapfile -t lines < <("$@" 2>/dev/null)
    ((${#lines[@]})) && flags=${lines[-1]#:}
    [[ $flags == +([0-9]) ]] || flags=1
    # Readline replaces only what follows the last of its word breaks, unless that stands inside quotes.
    if [[ $__reberth_raw != [\'\"]* ]]; then
        for char in : = @; do
            if [[ $COMP_WORDBREAKS == *"$char"* && ${__reberth_raw#"$cut"} == *"$char"* ]]; then
                cut=${__reberth_raw%"$char"*}$char
            fi
        done
    fi
    COMPREPLY=()
    for value in "${lines[@]:0:${#lines[@]}-1}"; do
        value=${value%%$'\t'*}
        COMPREPLY+=("${value#"$cut"}")
    done
    ((flags & 1)) && return
    ((flags & 2)) && compopt -o nospace 2>/dev/null
    ((flags & 32)) && compopt -o nosort 2>/dev/null
    ((flags & 16)) && compopt -o dirnames 2>/dev/null
    ((flags & 20)) || compopt -o default 2>/dev/null
}

__reberth_complete() { # COMMAND
    local __reberth_raw
    local -a __reberth_words
    __reberth_split "${COMP_LINE:0:COMP_POINT}"
    while ((${#__reberth_words[@]} > 1)) && [[ ${__reberth_words[0]} != "$1" ]]; do # A=1 reberth ...
        __reberth_words=("${__reberth_words[@]:1}")
    done
    # The one of PATH, whatever was typed: a press of the tab key must not start ./reberth of a foreign folder.
    __reberth_answer reberth __complete "${__reberth_words[@]:1}"
}

complete -F __reberth_complete reberth
