"""``ax import``: the configuration of packet filters and proxies, as resources. Reads text, asks no daemon.

==================  ==============================================================================================
`command`           the options; what is printed where
`report`            what could not be expressed, and why
`documents`         from values of `appswitch.resources` to documents, and names for them
`ranges`, `boxes`   sets of addresses, ports and users: what is left for a rule after those before it
`packetfilter`      the rules of a packet filter, whichever wrote them; `iptables` and `nft` read them (`conditions`)
`flatten`           which connections meet which rule: chains followed, first match
`policies`          from first match to "a deny wins, an allow list closes"
`services`          from address translation to vservices
`haproxy`, `nginx`  proxies; `proxy` is what they share
==================  ==============================================================================================
"""
