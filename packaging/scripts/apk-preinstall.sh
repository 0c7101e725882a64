#!/bin/sh
# Alpine: the group of those who may type `cuttle up`.
addgroup -S cuttle-admin 2>/dev/null || true
