# shellcheck shell=bash
# Completion of nfqlb for bash. Written by: nfqlb completion bash
#
# nfqlb itself says what could come next, a line for each: + and a word, behind which a space goes, = and one that
# goes on, or "files" or "directories", which bash knows better. What it cannot say it says nothing of.

_nfqlb() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        case $line in
            files) compopt -o default ;;
            directories) compopt -o dirnames ;;
            =*) COMPREPLY+=("${line:1}") && compopt -o nospace ;;
            +*) COMPREPLY+=("${line:1}") ;;
        esac
    done < <(_NFQLB_COMPLETE=bash _NFQLB_LINE=${COMP_LINE:0:COMP_POINT} _NFQLB_BREAKS=$COMP_WORDBREAKS "$1" 2>/dev/null)
}

complete -o nosort -F _nfqlb nfqlb
