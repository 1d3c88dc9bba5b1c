# names.sh libc|dig|busybox SERVER-NAME IPV4: what it resolves to, and a page by name.
set -eu
name=$2 address=$3
joined() { sort -u | paste -sd, | sed 's/^/host /'; }
case $1 in
libc)
    getent ahosts "$name" | cut -d' ' -f1 | joined
    echo "ptr $(getent hosts "$address" | sed 's/.* //')"
    page=$(curl -sS --max-time 10 "http://$name/")
    ;;
dig)
    { dig +short "$name" A && dig +short +tcp "$name" AAAA; } | joined
    echo "ptr $(dig +short -x "$address" | sed 's/\.$//')"
    dig +short "_80._tcp.$name" SRV | sed -E 's/.* (.*) (.*)\.$/srv \2 \1/'
    page=$(curl -sS --max-time 10 "http://$name/")
    ;;
host)
    host "$name" | sed -n 's/.* has .*address //p' | joined
    echo "ptr $(host "$address" | sed -E 's/.* pointer (.*)\.$/\1/')"
    host -t SRV "_80._tcp.$name" | sed -E 's/.* (.*) (.*)\.$/srv \2 \1/'
    page=$(curl -sS --max-time 10 "http://$name/")
    ;;
busybox)
    busybox nslookup "$name" | sed -n '/^Name/,$s/^Address[ 0-9]*: *//p' | joined
    echo "ptr $(busybox nslookup "$address" | sed -n 's/.*name = //p')"
    page=$(busybox wget -q -O - "http://$name/")
    ;;
esac
echo "get $page"
