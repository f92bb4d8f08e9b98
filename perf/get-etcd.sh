#!/bin/bash
# Builds what cored is compared with: etcd, etcdctl and etcdutl 3.7.3 and etcd's load tool `benchmark`.
#
# Usage: perf/get-etcd.sh DIR
#
# Needs Go and a module proxy, nothing else; what DIR already holds is kept. About four minutes on two cores.
#
# `go install module@version` refuses modules that replace others, and etcd's all do. In a module of our own they
# are ordinary dependencies, whose replacements Go ignores, and their commands can be built.
set -euo pipefail

VERSION=v3.7.3
# The newest release whose root module, where the tool lives, is whole on the proxy.
BENCHMARK_VERSION=v3.6.8

mkdir -p "${1:?usage: get-etcd.sh DIR}"
OUT=$(cd "$1" && pwd)
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

build() { # program module version package
  local program=$1 module=$2 version=$3 package=$4
  if [ -x "$OUT/$program" ]; then
    echo "$program: kept"
    return
  fi
  echo "$program: building $package $version"
  mkdir -p "$WORK/$program/nothing"
  cd "$WORK/$program"
  printf 'module go.etcd.io/etcd/tests/v3\n' > nothing/go.mod
  go mod init "$program" 2> /dev/null
  # Only etcd's own tree has its tests as a module; nothing that we build uses them.
  go mod edit -replace go.etcd.io/etcd/tests/v3=./nothing -require "$module@$version"
  if ! go build -mod=mod -trimpath -o "$OUT/$program.new" "$package" > log 2>&1; then
    tail -n 20 log >&2
    return 1
  fi
  mv "$OUT/$program.new" "$OUT/$program"
}

build etcd go.etcd.io/etcd/server/v3 "$VERSION" go.etcd.io/etcd/server/v3
build etcdctl go.etcd.io/etcd/etcdctl/v3 "$VERSION" go.etcd.io/etcd/etcdctl/v3
build etcdutl go.etcd.io/etcd/etcdutl/v3 "$VERSION" go.etcd.io/etcd/etcdutl/v3
build benchmark go.etcd.io/etcd/v3 "$BENCHMARK_VERSION" go.etcd.io/etcd/v3/tools/benchmark

"$OUT/etcd" --version | head -n 1
"$OUT/etcdctl" version | head -n 1
"$OUT/etcdutl" version | head -n 1
"$OUT/benchmark" --help > /dev/null && echo "benchmark $BENCHMARK_VERSION"
