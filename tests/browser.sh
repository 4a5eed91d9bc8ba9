#!/bin/sh
# The tests need Chromium; Debian and Ubuntu bring one. $BROWSER names another one.
set -u
command -v "${BROWSER:-chromium}" >/dev/null && exit 0
[ -n "${BROWSER:-}" ] && { echo "BROWSER=$BROWSER is no command" >&2; exit 1; }
sudo=""
[ "$(id -u)" = 0 ] || sudo="sudo -n"
if command -v apt-get >/dev/null; then
  echo "Installing Chromium …"
  $sudo apt-get update -qq && $sudo apt-get install -y -qq --no-install-recommends chromium >/dev/null && exit 0
fi
echo "The browser tests need Chromium, which could not be installed here." \
  "Install it, or name the command of another one: BROWSER=google-chrome make test" >&2
exit 1
