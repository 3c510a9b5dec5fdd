#!/usr/bin/env bash
# Builds the static libvirt client archives that `make static` links, once per machine and recipe.
#
#   build.sh              build unless the cache has it; prints the prefix on stdout, progress on stderr
#   build.sh --prefix     print the prefix of this recipe without building
#
# Distributions ship libvirt's client as a shared library only, and some of its dependencies without a usable static
# archive. This takes the distribution's own patched sources (so it follows its security updates when the cache is
# emptied), builds the client part alone, and gathers every archive of the link line in one prefix with two pkg-config
# files. The machine's package sources are read, never changed.
set -euo pipefail

# shellcheck source=/dev/null
. /etc/os-release
arch=$(uname -m)
multiarch=$(gcc -print-multiarch 2>/dev/null || echo "$arch-linux-gnu")
jobs=$(nproc)

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# The key holds all that decides the result: this file and its patch, the distribution, the architecture.
key=$({ cat "${BASH_SOURCE[0]}" "$here/poller.patch"; echo "${ID:-} ${VERSION_ID:-} $arch"; } | sha256sum | cut -c1-16)
cache=${VIRT_LAUNCHER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/virt-launcher}
prefix=$cache/static-libvirt-$key

say() { printf 'static-libvirt: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

if [ "${1:-}" = --prefix ]; then
    echo "$prefix"
    exit 0
fi
if [ -f "$prefix/lib/pkgconfig/libvirt.pc" ]; then
    echo "$prefix"
    exit 0
fi

mkdir -p "$cache"
exec 9>"$cache/static-libvirt.lock"
flock -n 9 || { say "another build is running, waiting for it"; flock 9; }
if [ -f "$prefix/lib/pkgconfig/libvirt.pc" ]; then
    echo "$prefix"
    exit 0
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/static-libvirt.XXXXXX")
log=$cache/static-libvirt-$key.log
: >"$log"
step_group=
# An interrupted run takes the compilers of its step along: they are in a process group of their own, which is what lets
# them be ended together (a plain background job would not even see an interrupt from the terminal).
end() {
    trap - EXIT INT TERM
    if [ -n "$step_group" ]; then
        kill -TERM -- "-$step_group" 2>/dev/null || true
        wait "$step_group" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap end EXIT
trap 'end; exit 130' INT TERM
stage=$work/prefix
mkdir -p "$stage/lib/pkgconfig" "$work/src"
export PKG_CONFIG_PATH=$stage/lib/pkgconfig

# Runs one step with its output in the log, and prints one line with the time it took.
steps_done=0
step() {
    local what=$1 start=$SECONDS
    shift
    steps_done=$((steps_done + 1))
    printf 'static-libvirt: [%d/%d] %-44s ' "$steps_done" "$steps" "$what" >&2
    printf '\n=== %s\n' "$what" >>"$log"
    set -m
    (set -e; "$@") >>"$log" 2>&1 </dev/null 9>&- &
    step_group=$!
    set +m
    if wait "$step_group"; then
        step_group=
        printf '%4d s\n' $((SECONDS - start)) >&2
    else
        step_group=
        printf 'FAILED after %d s\n' $((SECONDS - start)) >&2
        tail -n 40 "$log" >&2
        die "step \"$what\" failed; the whole log is $log"
    fi
}

# --- sources ---------------------------------------------------------------------------------------------------------

# apt with its own lists and source entries below $work; the machine's keys, proxies and preferences stay in force.
private_apt() {
    "$@" -o Dir::State::Lists="$work/apt/lists" -o Dir::Etc::SourceList="$work/apt/empty.list" \
        -o Dir::Etc::SourceParts="$work/apt/sources.d" -o Dir::Cache="$work/apt/cache" -o APT::Sandbox::User="$(id -un)" \
        -o Acquire::Retries=3 -o Acquire::Languages=none
}

# The deb-src twin of each entry for this release; backports and other vendors' repositories are left out, so that the
# version is the release's own. Reads both the one-line (.list) and the deb822 (.sources) form.
source_entries() {
    mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial" "$work/apt/sources.d"
    : >"$work/apt/empty.list"
    local suites="${VERSION_CODENAME:-stable}(-updates|-security)?|stable(-updates|-security)?"
    shopt -s nullglob
    local list
    for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ ! -f "$list" ] || cat "$list"
    done |
        sed -nE "s#^[[:space:]]*deb(-src)?[[:space:]]+((\[[^]]*\][[:space:]]+)?[^[:space:]]+[[:space:]]+($suites)(/updates)?[[:space:]].*)#deb-src \2#p" |
        sed -E 's#(\[[^]]*)arch=[^] ]*#\1#; s#\[[[:space:]]*\][[:space:]]*##' | sort -u >"$work/apt/sources.d/private.list"
    local file
    for file in /etc/apt/sources.list.d/*.sources; do
        # One stanza per paragraph; comments may stand inside a stanza.
        awk -v RS= -v want="^(${suites})\$" '
            {
                n = split($0, line, "\n"); out = ""; keep = 0; off = 0
                for (i = 1; i <= n; i++) {
                    if (line[i] ~ /^#/) continue
                    if (tolower(line[i]) ~ /^types:/) { out = out "Types: deb-src\n"; continue }
                    if (tolower(line[i]) ~ /^architectures:/) continue
                    if (tolower(line[i]) ~ /^enabled:.*no/) off = 1
                    if (tolower(line[i]) ~ /^suites:/) {
                        m = split(line[i], word, /[ \t]+/)
                        s = "Suites:"
                        for (j = 2; j <= m; j++) if (word[j] ~ want) { s = s " " word[j]; keep = 1 }
                        out = out s "\n"; continue
                    }
                    out = out line[i] "\n"
                }
                if (keep && !off) print out
            }' "$file" >"$work/apt/sources.d/$(basename "$file")"
        [ -s "$work/apt/sources.d/$(basename "$file")" ] || rm "$work/apt/sources.d/$(basename "$file")"
    done
    cat "$work"/apt/sources.d/*
    [ -n "$(cat "$work"/apt/sources.d/*)" ] || { echo "no package source of ${PRETTY_NAME:-this system} found in /etc/apt"; exit 1; }
    # One broken mirror must not matter as long as the sources asked for below are found.
    private_apt apt-get update || echo "apt-get update reported errors; trying to go on"
}

# Downloads and unpacks one source package (with the distribution's patches) to $work/src/NAME.
fetch() {
    local name=$1 dir=$work/dl/$1
    mkdir -p "$dir"
    cd "$dir"
    if ! private_apt apt-get source --download-only "$name"; then
        # Some mirrors do not know "%2b" as "+": ask for what is missing by its plain address, and check its hash.
        local uri file size hash
        private_apt apt-get -qq source --download-only --print-uris "$name" >uris
        while read -r uri file size hash; do
            uri=${uri//\'/}
            [ -s "$file" ] && [ "$(stat -c %s "$file")" = "$size" ] && continue
            uri=$(sed 's/%2[bB]/+/g; s/%7[eE]/~/g' <<<"$uri")
            echo "fetching $uri"
            if ! curl -fsSL --retry 3 -o "$file" "$uri"; then
                # Descriptions and upstream's signatures are not on every mirror; the hashes below vouch for the sources.
                case $file in *.asc | *.dsc) continue ;; *) exit 1 ;; esac
            fi
            case $hash in
                SHA256:*) echo "${hash#SHA256:}  $file" | sha256sum -c ;;
                SHA512:*) echo "${hash#SHA512:}  $file" | sha512sum -c ;;
                *) echo "no usable hash for $file: $hash"; exit 1 ;;
            esac
        done <uris
        rm uris
    fi
    # What dpkg-source does with this format, "3.0 (quilt)", but without asking for the files that builds do not need. apt
    # has checked the hashes, and its signed lists vouch for them.
    mkdir "$work/src/$name"
    tar -x --strip-components=1 -C "$work/src/$name" -f ./*.orig.tar.*[!c]
    tar -x -C "$work/src/$name" -f ./*.debian.tar.*
    cd "$work/src/$name"
    local line
    while read -r line; do
        line=${line%%[[:space:]]#*}
        case $line in '' | '#'*) continue ;; esac
        echo "applying $line"
        patch -p1 --forward --batch --silent -i "debian/patches/${line%% *}"
    done <debian/patches/series
}

# Distributions' patches touch configure.ac and Makefile.am, and the files that come generated with a source were made by
# some other version of autotools: remake them all, as the distribution's own build does. There is no manual to make.
remake_configure() { GTKDOCIZE=true autoreconf --force --install; }

# --- builds ----------------------------------------------------------------------------------------------------------

# A section for each function, so that the final link leaves out what nobody calls: half of these libraries. Built for size,
# without tables for unwinding, which C does not do: the launcher waits for libvirt's daemon, not for its client.
cflags="-fPIC -ffunction-sections -fdata-sections -fno-asynchronous-unwind-tables"
meson_size=(--buildtype=release -Doptimization=s)

# Debian's archive of gnutls wants p11-kit, which cannot be linked statically.
build_gnutls() {
    cd "$work/src/gnutls28"
    remake_configure
    CFLAGS="-Os $cflags" ./configure --prefix="$stage" --libdir="$stage/lib" --disable-shared --enable-static --without-p11-kit \
        --with-included-unistring --without-idn --disable-doc --disable-tools --disable-cxx --disable-tests --without-zlib \
        --without-brotli --without-zstd --without-tpm --without-tpm2 --disable-nls --disable-libdane --disable-gost
    make -j"$jobs"
    make install
}

# Debian's archive of libxml2 drags in 31 MB of ICU tables.
build_libxml2() {
    cd "$work/src/libxml2"
    remake_configure
    CFLAGS="-Os $cflags" ./configure --prefix="$stage" --libdir="$stage/lib" --disable-shared --enable-static --without-icu \
        --without-lzma --without-zlib --without-python
    make -j"$jobs" libxml2.la
    make install-libLTLIBRARIES install-pkgconfigDATA
    make -C include install
}

build_glib() {
    cd "$work/src/glib2.0"
    meson setup build --prefix="$stage" --libdir=lib -Dauto_features=disabled -Ddefault_library=static -Dtests=false \
        -Dc_args="$cflags" "${meson_size[@]}"
    ninja -C build -j"$jobs" install
}

# libvirt's build makes a shared library from static pieces. Its client alone, then the objects of those pieces in one
# archive; its own final link may fail, which does not matter here.
build_libvirt() {
    cd "$work/src/libvirt"
    if grep -A1 'Force other thread to wakeup from poll' src/rpc/virnetclient.c | grep -q g_main_loop_quit; then
        patch -p1 --forward --batch -i "$here/poller.patch"
    fi
    meson setup build -Dauto_features=disabled -Dsystem=true -Ddriver_remote=enabled -Dlibnl=enabled -Dtests=disabled \
        -Ddocs=disabled --prefer-static -Dc_args="$cflags" "${meson_size[@]}"
    ninja -C build -t targets all | sed -nE 's#^(src/libvirt\.so\.0\.[0-9]+\.[0-9]+): .*#\1#p' >so
    local so
    so=$(head -1 so)
    [ -n "$so" ]
    ninja -C build -t commands "$so" | tail -1 | tr ' ' '\n' | grep -E '^src/.*\.a$' | sort -u >pieces
    cat pieces
    # shellcheck disable=SC2046
    ninja -C build -j"$jobs" $(cat pieces)
    # Generated headers come with the pieces; libvirt-qemu is one object of a second library.
    local qemu
    qemu=$(ninja -C build -t targets all | sed -nE 's#^(src/libvirt-qemu\.so[^:]*\.p/libvirt-qemu\.c\.o): .*#\1#p' | head -1)
    [ -n "$qemu" ]
    ninja -C build "$qemu"
    # The pieces are thin archives: their members are paths of objects. Members of one name in different directories
    # stay apart, since "ar q" adds without replacing.
    cd build
    local piece
    while read -r piece; do ar t "$piece"; done <../pieces | sort -u >../objects
    wc -l ../objects
    rm -f "$stage/lib/libvirt.a" "$stage/lib/libvirt-qemu.a"
    xargs ar qc "$stage/lib/libvirt.a" <../objects
    ranlib "$stage/lib/libvirt.a"
    ar rcs "$stage/lib/libvirt-qemu.a" "$qemu"
    mkdir -p "$stage/include/libvirt"
    cp ../include/libvirt/*.h include/libvirt/*.h "$stage/include/libvirt/"
}

# --- the prefix ------------------------------------------------------------------------------------------------------

# Link order matters: users before what they use.
libs=(virt gio-2.0 gobject-2.0 gmodule-2.0 glib-2.0 gnutls tirpc xml2 nl-route-3 nl-3 hogweed nettle gmp tasn1 pcre2-8 ffi acl
    attr z selinux sepol)

# Copies what the distribution does ship as archives beside ours: with every archive outside the system's directories,
# pkg-config's users link them statically without asking, and a later upgrade of a package cannot break the cache.
gather() {
    local lib found missing=()
    for lib in "${libs[@]}"; do
        [ -f "$stage/lib/lib$lib.a" ] && continue
        found=
        for dir in "/usr/lib/$multiarch" "/lib/$multiarch" /usr/lib64 /usr/lib; do
            if [ -f "$dir/lib$lib.a" ]; then
                found=$dir/lib$lib.a
                break
            fi
        done
        if [ -n "$found" ]; then cp "$found" "$stage/lib/"; else missing+=("lib$lib.a"); fi
    done
    if [ ${#missing[@]} -gt 0 ]; then
        echo "no static archive of: ${missing[*]} (is its -dev package installed? see: make deps)"
        exit 1
    fi
    local version line
    version=$(sed -nE "s/^[[:space:]]*version: '([0-9.]+)',.*/\1/p" "$work/src/libvirt/meson.build" | head -1)
    line=$(printf -- '-l%s ' "${libs[@]}")
    rm -rf "$stage/lib/pkgconfig" "$stage/lib/cmake" "${stage:?}/share" "${stage:?}/bin" "$stage"/lib/*.la
    mkdir -p "$stage/lib/pkgconfig"
    cat >"$stage/lib/pkgconfig/libvirt.pc" <<PC
prefix=$prefix
libdir=\${prefix}/lib
includedir=\${prefix}/include

Name: libvirt
Description: libvirt client, static archives
Version: $version
Libs: -L\${libdir} ${line}-lpthread -lm -lutil -lrt -ldl
Cflags: -I\${includedir}
PC
    cat >"$stage/lib/pkgconfig/libvirt-qemu.pc" <<PC
prefix=$prefix
libdir=\${prefix}/lib
includedir=\${prefix}/include

Name: libvirt-qemu
Description: libvirt client, QEMU specific calls, static archive
Version: $version
Requires: libvirt
Libs: -L\${libdir} -lvirt-qemu
Cflags: -I\${includedir}
PC
    # Nothing may be left undefined: a program that uses both libraries, linked as the launcher will be.
    cat >"$work/trial.c" <<'C'
#include <libvirt/libvirt.h>
#include <libvirt/libvirt-qemu.h>
int main(int argc, char **argv)
{
    virConnectPtr c = virConnectOpen(argv[1]);
    return virEventRegisterDefaultImpl() + (c == 0) + (argc > 9 ? virDomainQemuMonitorCommand(0, "", 0, 0) : 0);
}
C
    # shellcheck disable=SC2086
    gcc -static-pie -I"$stage/include" -o "$work/trial" "$work/trial.c" -L"$stage/lib" -lvirt-qemu $line -lpthread -lm -lutil -lrt -ldl
    # What a reader of NOTICE needs to relink: which source packages these archives are made of.
    (cd "$work/dl" && ls ./*/*.debian.tar.*) | sed 's#.*/##; s#\.debian\.tar.*$##' >"$stage/SOURCES"
    rm -rf "$prefix"
    mv "$stage" "$prefix.tmp"
    mv "$prefix.tmp" "$prefix"
}

# Some releases ship glib without archives, others with archives that want libraries which have none (sysprof).
glib_links() {
    local cflags
    cflags=$(pkg-config --cflags glib-2.0)
    cat >"$work/glib-trial.c" <<'C'
#include <glib.h>
int main(int argc, char **argv)
{
    return g_spawn_async(0, argv, 0, 0, 0, 0, 0, 0) + (g_main_loop_new(0, 0) == 0);
}
C
    # shellcheck disable=SC2086
    gcc -static $cflags -o "$work/glib-trial" "$work/glib-trial.c" -lgio-2.0 -lgobject-2.0 -lglib-2.0 -lpcre2-8 -lm >>"$log" 2>&1
}

for tool in autoreconf automake libtoolize autopoint meson ninja gcc pkg-config xsltproc xmllint rpcgen patch curl make; do
    command -v "$tool" >/dev/null || die "$tool is not installed (make deps installs it)"
done

packages=(gnutls28 libxml2 libvirt)
glib_links || packages=(glib2.0 "${packages[@]}")
steps=$((2 + 2 * ${#packages[@]}))

say "building the static libvirt client for ${PRETTY_NAME:-$ID} $arch, once on this machine (about 6 minutes on two cores)"
say "log: $log"
begin=$SECONDS
step "package lists of the sources" source_entries
for package in "${packages[@]}"; do
    step "source of $package" fetch "$package"
done
for package in "${packages[@]}"; do
    version=$(basename "$work/dl/$package"/*.debian.tar.* | sed -E 's/^[^_]*_//; s/\.debian\.tar.*//')
    case $package in
        gnutls28) step "gnutls $version" build_gnutls ;;
        libxml2) step "libxml2 $version" build_libxml2 ;;
        glib2.0) step "glib $version" build_glib ;;
        libvirt) step "libvirt client $version" build_libvirt ;;
    esac
done
step "gather the archives, trial link" gather
say "done in $((SECONDS - begin)) s: $prefix"
echo "$prefix"
