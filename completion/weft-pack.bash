# SPDX-License-Identifier: Apache-2.0
# Completion of weft-pack(1) for bash; a test compares it with the program.

# _weft_pack_apps: the ids of the installed apps. compgen expands its words as the shell does: what passes here has
# nothing to expand.
_weft_pack_apps() {
    timeout 2 weft-pack list --json 2>/dev/null | grep -o '"id": "[a-z0-9.]*' | sed 's/.*"//'
}

_weft_pack() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
    local command='' has_target='' wants_app='' index options='' words=''

    for ((index = 1; index < COMP_CWORD; index++)); do
        if [[ ${COMP_WORDS[index]} == --rollback ]]; then
            wants_app=yes
        elif [[ ${COMP_WORDS[index]} == -* || ${COMP_WORDS[index - 1]} == --@(key|out|lang|id) ]]; then
            continue
        elif [[ -z $command ]]; then
            command=${COMP_WORDS[index]}
        else
            has_target=yes
        fi
    done

    case $command in
        '') options='--version' ;;
        check | info | list) options='--json' ;;
        compile) options='--all --json' ;;
        new) options='--lang --id --ui' ;;
        install) options='--user --force --rollback' ;;
        uninstall) options='--user --force --purge --json' ;;
        sign | verify) options='--key' ;;
        bundle | unbundle) options='--out' ;;
    esac

    COMPREPLY=()
    if [[ $previous == --lang ]]; then
        words='rust c cpp go assemblyscript zig'
    elif [[ $previous == --id ]]; then
        return # to be thought of
    elif [[ $previous == --key ]]; then
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        return
    elif [[ $previous == --out ]]; then
        mapfile -t COMPREPLY < <(compgen -d -- "$current")
        return
    elif [[ $current == -* ]]; then
        words="-h --help $options"
    elif [[ -z $command ]]; then
        words='check info new run install uninstall compile list generate-key sign verify bundle unbundle'
    elif [[ $command == compile ]]; then
        words=$(_weft_pack_apps)
    elif [[ -z $has_target ]]; then
        case $command in
            uninstall) words=$(_weft_pack_apps) ;;
            install | unbundle)
                if [[ -n $wants_app ]]; then
                    words=$(_weft_pack_apps)
                else
                    mapfile -t COMPREPLY < <(compgen -f -- "$current")
                    return
                fi
                ;;
            list) return ;;
            *)
                mapfile -t COMPREPLY < <(compgen -d -- "$current")
                return
                ;;
        esac
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}

complete -o filenames -F _weft_pack weft-pack
