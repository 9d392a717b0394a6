#compdef nfqlb
# Completion of nfqlb for zsh. Written by: nfqlb completion zsh
#
# nfqlb itself says what could come next, a line for each: + and a word, behind which a space goes, = and one that
# goes on, each with a tab and what it means, or "files" or "directories", which zsh knows better.

_nfqlb() {
    local line program=${(Q)words[1]}
    local -a ending going
    # The words before the cursor, and what stands before it of the one that it is in.
    for line in ${(f)"$(_NFQLB_COMPLETE=zsh ${~program} ${(@Q)words[2,CURRENT-1]} "${(Q)PREFIX}" 2>/dev/null)"}; do
        case $line in
            (files | directories)
                if [[ $PREFIX == --*=* ]]; then
                    compset -P '*='
                fi
                if [[ $line == files ]]; then
                    _files
                else
                    _files -/
                fi
                return
                ;;
            (+*) ending+=("${${line#?}//:/\\:}") ;;
            (=*) going+=("${${line#?}//:/\\:}") ;;
        esac
    done
    ending=("${ending[@]/$'\t'/:}")
    going=("${going[@]/$'\t'/:}")
    local failed=1
    if (( $#ending )); then
        _describe -V nfqlb ending && failed=0
    fi
    if (( $#going )); then
        _describe -V nfqlb going -S '' && failed=0
    fi
    return failed
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _nfqlb "$@"  # found in fpath, and called for the first time
else
    compdef _nfqlb nfqlb
fi
