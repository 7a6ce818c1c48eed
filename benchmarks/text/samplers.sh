#!/bin/sh
# The samplers of tokens side by side: 200 continuations of 200 bytes of held-out Shakespeare under the shipped model.
#
#   benchmarks/text/samplers.sh [MODEL] [FOLDER]      (models/shakespeare, a temporary folder)
#
# Writes the table to the standard output as Markdown. Needs gen (in PATH, in target/release, or as $GEN) and awk.
set -eu
cd "$(dirname "$0")/../.."
GEN=${GEN:-$( [ -x target/release/gen ] && echo target/release/gen || echo gen )}
MODEL=${1:-models/shakespeare}
DIR=${2:-$(mktemp -d)}
mkdir -p "$DIR"
export LC_ALL=C

# The held-out tenth: 200 pieces at equal distances, 40 bytes of prompt and the 200 bytes that really follow.
gzip -dc data/shakespeare/input.txt.gz | tail -c 111540 | awk '
    function quoted(s) { gsub(/\\/, "\\\\", s); gsub(/"/, "\\\"", s); gsub(/\n/, "\\n", s); return "\"" s "\"" }
    BEGIN { RS = "\001" }
    { for (i = 0; i < 200; i++)
        print "{\"prompt\": " quoted(substr($0, 1 + i * 557, 40)) ", \"text\": " quoted(substr($0, 41 + i * 557, 200)) "}"
    }' > "$DIR/written.jsonl"

figures="perplexity:rep-2:rep-3:rep-4:distinct-2:distinct-3:Zipf:entropy of tokens, bits:surprisal, scored:entropy, scored:|surprisal - entropy|"
echo "| | perplexity | rep-2 | rep-3 | rep-4 | distinct-2 | distinct-3 | Zipf | unigram entropy | surprisal | entropy | \\|surprisal - entropy\\| |"
echo "|---|---|---|---|---|---|---|---|---|---|---|---|"

measure() { # name, texts
    "$GEN" eval-text -q --texts "$2" --tokenizer bytes --gen-ppl "$MODEL" --given-prompt --batch 50 |
        awk -v name="$1" -v figures="$figures" '
            { key = substr($0, 1, 24); sub(/ +$/, "", key); value = substr($0, 25); gsub(/ /, "", value); of[key] = value }
            END {
                n = split(figures, list, ":"); row = "| " name " |"
                for (i = 1; i <= n; i++) row = row " " sprintf(i < 2 || i > 6 ? "%.2f" : "%.3f", of[list[i]]) " |"
                print row
            }'
}

draw() { # name, file, flags of the sampler
    name=$1 file=$DIR/$2.jsonl
    shift 2
    "$GEN" sample -q --model "$MODEL" --prompt-file "$DIR/written.jsonl" --out "$file" --overwrite --batch 50 \
        --max-new-tokens 200 --seeds 0 "$@"
    measure "$name" "$file"
}

measure "held-out text" "$DIR/written.jsonl"
draw "greedy" greedy --greedy
draw "pure sampling" pure
draw "top-k 40" top-k --top-k 40
draw "nucleus 0.95" nucleus --top-p 0.95
draw "typical 0.2" typical-0.2 --typical-p 0.2
draw "typical 0.9" typical-0.9 --typical-p 0.9
draw "typical 0.95" typical-0.95 --typical-p 0.95
