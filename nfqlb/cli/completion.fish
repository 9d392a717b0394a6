# Completion of nfqlb for fish. Written by: nfqlb completion fish
#
# nfqlb itself says what could come next, a line for each: + or = and a word, with a tab and what it means, or "files"
# or "directories", which fish knows better.

function __nfqlb_complete
    set -l words (commandline -opc)
    set -l typed (commandline -ct)
    # As the command would get it; or, with a quotation mark that waits for its like, without that.
    set -l word (string unescape -- "$typed"; or string replace --regex -- '^["\']' '' "$typed")
    set -l program (string replace --regex '^~(?=/)' $HOME -- $words[1])
    type --query $program; or return
    for line in (_NFQLB_COMPLETE=fish $program $words[2..] "$word" 2>/dev/null)
        switch $line
            case files
                __nfqlb_paths __fish_complete_path $word
            case directories
                __nfqlb_paths __fish_complete_directories $word
            case '*'
                string sub --start 2 -- $line
        end
    end
end

# What a function of fish finds for a word, with what that leaves aside: the option before the path, and ~.
function __nfqlb_paths --argument-names find word
    set -l option (string match --regex -- '^--[^=]*=' $word)
    set -l path (string replace -- "$option" '' $word)
    set -l home (string match --regex -- '^~(?=/)' $path)
    for found in ($find (string replace --regex -- '^~(?=/)' $HOME $path))
        test -n "$home"; and set found (string replace -- $HOME '~' $found)
        echo -- "$option$found"
    end
end

complete --command nfqlb --no-files --arguments '(__nfqlb_complete)'
