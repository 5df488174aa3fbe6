#!/bin/sh
# The sheets of the methods' pages: sh docs/pictures/make.sh PATH-OF-LIMNER, in the root of the repository.
set -eu
limner=$1
from=checkpoints/avatars/pictures
to=docs/pictures
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
$limner edit $from/test-0115.png $from/test-0093.png "a person with a beard" --out "$work" --sheet $to/global-directions.png
$limner edit $from/test-0115.png $from/test-0093.png --mapper glasses --out "$work" --sheet $to/latent-mapper.png
$limner edit $from/test-0115.png $from/test-0093.png "a person with red hair" --method latent-optimization \
    --out "$work" --sheet $to/latent-optimization.png
who="a smiling person with tanned skin"
rest="long brown hair, no beard and no glasses"
$limner edit seed:1 seed:6 --source-prompt "$who, $rest, wearing a yellow sweater, green background" \
    --prompt "$who, $rest, wearing a red sweater, green background" --blend sweater \
    --out "$work" --sheet $to/prompt-to-prompt.png
$limner edit seed:1 seed:4 --source-prompt \
    "a smiling person with long brown hair and no beard, wearing a blue sweater, green background" \
    --concept +glasses --out "$work" --sheet $to/sega.png
