# shellcheck shell=bash
# How everything that is shipped is compiled: sourced by what builds it, in the top folder of the source.
#
# build_image TARGET CARGO-ARGUMENT...     builds with the profile "image"; more flags for rustc stand in `flags`
#
# DPFS_BOARD names the board, which says for which processor code for arm64 is. The names of the folders of this machine
# are taken out, so that the same source gives the same bytes in any folder.
export RUSTUP_AUTO_INSTALL=0
flags=()

# Prints the value of a key of the board.
board_says() { sed -n "s/^$1 = \"\([^\"]*\)\".*/\1/p" "board/${DPFS_BOARD:-generic}/board.toml"; }

build_image() {
    local target=$1 IFS=$'\x1f'
    local all=("--remap-path-prefix=$PWD=/dpfs" "--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
        "--remap-path-prefix=$(rustc --print sysroot)=/rust" "${flags[@]}")
    [[ $target != aarch64-* ]] || all+=(-C "target-cpu=$(board_says cpu)")
    CARGO_ENCODED_RUSTFLAGS="${all[*]}" cargo build --quiet --profile image --target "$target" "${@:2}"
}
