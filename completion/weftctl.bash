# SPDX-License-Identifier: Apache-2.0
# Completion of weftctl(1) for bash; a test compares it with the program.

# _weftctl_values FIELD ARGUMENTS...: the values of FIELD in what `weftctl ARGUMENTS... --json` prints. Nothing
# where the daemon is not there, and nobody at the keyboard waits for one that hangs. compgen expands its words as the
# shell does: what passes here has nothing to expand.
_weftctl_values() {
    local field=$1
    shift
    timeout 2 weftctl "$@" --json 2>/dev/null | grep -o "\"$field\": \"\\?[a-z0-9.]*" | sed 's/.*[ "]//' | sort -u
}

_weftctl() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
    local command='' has_target='' index options words=''

    for ((index = 1; index < COMP_CWORD; index++)); do
        if [[ ${COMP_WORDS[index]} == -* || ${COMP_WORDS[index - 1]} == @(-n|--lines) ]]; then
            continue
        elif [[ -z $command ]]; then
            command=${COMP_WORDS[index]}
        else
            has_target=yes
        fi
    done

    case $command in
        '') options='--version' ;;
        list) options='--json -a --all' ;;
        launch) options='--json -w --wait -f --follow --no-wait' ;;
        logs) options='--json -f --follow -n --lines' ;;
        restore) options='--json --forget' ;;
        *) options='--json' ;;
    esac

    COMPREPLY=()
    if [[ $previous == @(-n|--lines) ]]; then
        return # a number
    elif [[ $current == -* ]]; then
        words="-h --help $options"
    elif [[ -z $command ]]; then
        words='list launch stop status apps logs watch restore doctor'
    elif [[ -z $has_target ]]; then
        case $command in
            launch) words=$(_weftctl_values app_id apps) ;;
            stop) words=$(_weftctl_values session_id list && _weftctl_values app_id list) ;;
            status) words=$(_weftctl_values session_id list --all) ;;
            restore) words=$(_weftctl_values app_id list) ;;
            logs) words=$(_weftctl_values session_id list --all && _weftctl_values app_id apps) ;;
        esac
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}

complete -F _weftctl weftctl
