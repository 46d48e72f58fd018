# Completion of reberth for fish. It asks `reberth __complete`.

function __reberth_answer # PROGRAM WORD...: prints the candidates for the last word
    set -l lines ($argv 2>/dev/null)
    set -l flags (string replace -r '^:' '' -- $lines[-1])
    string match -qr '^[0-9]+$' -- $flags; or return
    test (math "bitand($flags, 1)") -eq 0; or return
    if test (count $lines) -gt 1
        printf '%s\n' $lines[1..-2]
    end
    if test (math "bitand($flags, 16)") -ne 0
        __fish_complete_directories (commandline -ct)
    else if test (math "bitand($flags, 4)") -eq 0
        __fish_complete_path (commandline -ct)
    end
end

function __reberth_token # prints the word before the cursor, without quotes
    set -l typed (commandline -ct)
    string unescape -- "$typed"; or string trim -l -c '\'"' -- "$typed"
end

function __reberth_complete
    set -l words (commandline -opc)
    # The one of PATH, whatever was typed: a press of the tab key must not start ./reberth of a foreign folder.
    __reberth_answer reberth __complete $words[2..-1] (__reberth_token)
end

complete -c reberth -f -k -a '(__reberth_complete)'
