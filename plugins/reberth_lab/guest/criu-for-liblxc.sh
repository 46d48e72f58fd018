#!/bin/sh
# Found before the real criu on the daemon's PATH; mends two words of liblxc 6.0.4.
# --lsm-profile: always passed, and refused by criu on a kernel without AppArmor.
# --cgroup-root: meant for cgroup v2 (sometimes with names of controllers before it, which criu then takes for a part of
# the path), but criu takes it for every hierarchy, and in a version 1 hierarchy that the
# machine has beside it there is no such cgroup ("failed walking /proc/self/fd/17lxc.payload.NAME").
word= first=1
for now; do
  [ "$first" ] && set -- && first=
  case $word in
  --lsm-profile) word= && continue ;;
  --cgroup-root) now=${now##*:} now=:/${now#/} ;;
  esac
  word=$now
  if [ "$now" = --lsm-profile ]; then
    [ -e /sys/kernel/security/apparmor ] && word= || continue
  fi
  set -- "$@" "$now"
done
exec /usr/sbin/criu "$@"
