# shellcheck shell=bash
# Packages of any Debian suite, unpacked in the cache and never installed. Sourced by fetch.
#
# The machine's own apt is left as it is: each suite has a private state folder, with an empty list of installed
# packages, so that "install, but only download" names a package together with everything it needs, its libc included.
# What is unpacked that way runs on any machine, whatever libc is on it. The mirror is the one the machine uses.

# Prints the address of the machine's Debian mirror: the first source that carries a release (not its updates or its
# security archive), in either form of apt's source lists.
debian_mirror() {
    local files=() file
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
        [[ -r $file ]] && files+=("$file")
    done
    awk '
        function offer(uri, suite) {
            if (suite ~ /^(bookworm|trixie|forky|sid|oldstable|stable|testing|unstable)$/) { print uri; found = 1; exit }
        }
        function end_paragraph(  i) {
            if (uri != "") for (i in suites) offer(uri, suites[i])
            uri = ""
            delete suites
        }
        NF == 0 || FNR == 1 { end_paragraph() }
        /^[ \t]*#/ { next }
        $1 == "deb" { sub(/\[[^]]*\]/, ""); offer($2, $3) }  # deb [options] URI SUITE AREA...
        tolower($1) == "uris:" { uri = $2 }                  # or a paragraph of fields, in any order
        tolower($1) == "suites:" { for (i = 2; i <= NF; i++) suites[i] = $i }
        END { if (!found) end_paragraph() }
    ' "${files[@]}"
}

# suite_apt SUITE TOOL ARGUMENT...: apt-get or apt-cache, seeing SUITE and nothing else. A name that ends in "-arm64" is
# the suite's packages for that architecture.
suite_apt() {
    local home=$cache/apt/$1 tool=$2 other=()
    [[ $1 != *-arm64 ]] || other=(-o APT::Architecture=arm64 -o APT::Architectures=arm64)
    shift 2
    "$tool" -qq \
        -o Dir::State="$home" -o Dir::State::status="$home/status" -o Dir::Cache="$home" \
        -o Dir::Etc::sourcelist="$home/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null \
        -o APT::Sandbox::User=root -o APT::Install-Recommends=false "${other[@]}" \
        -o Acquire::Languages=none -o Acquire::Retries=3 \
        -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false \
        "$@"
}

# Makes SUITE's private state and reads its lists, once a day. A name that ends in "-src" is the suite's source packages.
suite_ready() { with_lock "apt-$1" suite_ready_locked "$1"; }

suite_ready_locked() {
    local suite=$1 home=$cache/apt/$1 mirror kind=deb
    [[ -z $(find "$home/ready" -mtime -1 2>/dev/null) ]] || return 0
    mirror=$(debian_mirror)
    [[ -n $mirror ]] || die "no Debian mirror among this machine's apt sources"
    [[ $suite != *-src ]] || kind="deb-src"
    mkdir -p "$home/lists/partial" "$home/archives/partial"
    : >"$home/status"
    printf '%s [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' \
        "$kind" "$mirror" "${suite%-*}" >"$home/sources.list"
    say "reading the package lists of $suite"
    if ! suite_apt "$suite" apt-get update >"$home/update.log" 2>&1; then
        cat "$home/update.log" >&2
        die "cannot read the package lists of $suite"
    fi
    touch "$home/ready"
}

# suite_fetch SUITE FOLDER ARGUMENT...: apt-get in that folder. A list may be older than the mirror, which then no longer
# has what the list names: reads the lists anew and tries once more.
suite_fetch() {
    local suite=$1 folder=$2
    shift 2
    if ! (cd "$folder" && suite_apt "$suite" apt-get "$@") >"$folder.log" 2>&1; then
        rm -f "$cache/apt/$suite/ready"
        suite_ready "$suite"
        if ! (cd "$folder" && suite_apt "$suite" apt-get "$@") >"$folder.log" 2>&1; then
            cat "$folder.log" >&2
            die "cannot download from $suite: apt-get $*"
        fi
    fi
    rm -f "$folder.log"
}

# unpack SUITE FOLDER PACKAGE...: unpacks exactly these packages.
unpack() {
    local suite=$1 folder=$2
    shift 2
    suite_ready "$suite"
    mkdir -p "$folder.debs" "$folder"
    say "downloading $* ($suite)"
    suite_fetch "$suite" "$folder.debs" download "$@"
    unpack_debs "$folder"
}

# unpack_closure SUITE FOLDER PACKAGE...: unpacks these packages and all they depend on.
unpack_closure() {
    local suite=$1 folder=$2
    shift 2
    suite_ready "$suite"
    mkdir -p "$folder.debs/partial" "$folder"
    say "downloading $* with all dependencies ($suite)"
    suite_fetch "$suite" "$folder.debs" install -y --download-only -o Dir::Cache::archives="$folder.debs" "$@"
    unpack_debs "$folder"
}

unpack_debs() {
    local deb name
    for deb in "$1".debs/*.deb; do
        dpkg -x "$deb" "$1"
    done
    rm -rf "$1.debs"
    # One tree whatever the suite: bookworm's packages still have files in /lib, the later ones only in /usr/lib.
    for name in bin lib lib64 sbin; do
        mkdir -p "$1/usr/$name"
        [[ ! -d $1/$name ]] || cp -a "$1/$name/." "$1/usr/$name/"
        rm -rf "${1:?}/$name"
        ln -s "usr/$name" "$1/$name"
    done
}

# source_tar FOLDER PACKAGE: downloads the upstream tar file of a source package.
source_tar() {
    local folder=$1 package=$2
    suite_ready bookworm-src
    mkdir -p "$folder"
    say "downloading the source of $package"
    suite_fetch bookworm-src "$folder" source --tar-only "$package"
}

# run_from_own_libc FINAL PROGRAM: makes PROGRAM use the libc and libraries unpacked beside it. FINAL is where its
# folder will stand when the item is complete. An rpath rather than a runpath: it holds for the libraries' own
# libraries too.
run_from_own_libc() {
    local final=$1 program=$2
    patchelf --set-interpreter "$final/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" \
        --force-rpath --set-rpath "$final/lib/x86_64-linux-gnu" "$program"
}
