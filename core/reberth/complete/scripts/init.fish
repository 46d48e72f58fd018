
# `runc migrate ID NODE:` and the same for crun: functions of this shell alone, so scripts keep the real programs.

function __reberth_migrate_at # WORD...: prints the place of the first word that is no option; fails if not migrate
    set -l place 1
    while test $place -le (count $argv)
        switch $argv[$place]
            case --root --log --log-format --log-level --criu --rootless --cgroup-manager
                set place (math $place + 2)
            case '-*'
                set place (math $place + 1)
            case '*'
                break
        end
    end
    echo $place
    test "$argv[$place]" = migrate
end

function __reberth_runtime # PROGRAM WORD...
    set -l words $argv[2..-1]
    if __reberth_migrate_at $words >/dev/null
        command reberth __runtime $argv
    else
        command $argv
    end
end

function runc
    __reberth_runtime runc $argv
end
function crun
    __reberth_runtime crun $argv
end

function __reberth_may_migrate
    set -l words (commandline -opc)
    set -l place (__reberth_migrate_at $words[2..-1])
    and return 1
    test $place -eq (count $words)
end

function __reberth_is_migrate
    set -l words (commandline -opc)
    __reberth_migrate_at $words[2..-1] >/dev/null
end

function __reberth_complete_migrate # PROGRAM
    set -l words (commandline -opc)
    set -l place (__reberth_migrate_at $words[2..-1])
    __reberth_answer reberth __complete move --backend $argv[1] $words[(math $place + 2)..-1] (__reberth_token)
end

for tool in runc crun
    complete -c $tool -n __reberth_may_migrate -a migrate -d 'Move a running container to another node (reberth)'
    complete -c $tool -n __reberth_is_migrate -f -k -a "(__reberth_complete_migrate $tool)"
end
