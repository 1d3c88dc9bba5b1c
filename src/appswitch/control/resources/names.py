"""Names of vservices and references, as the zone of the DNS server finds them. They are for every app.

A name leads to the addresses of what is configured, even where apps are called the same. A reference has one if it
is one address.
"""

from __future__ import annotations

from collections.abc import Callable

import dns.exception
import dns.name
import dns.reversename

from appswitch.control.dns.asker import Asker, Labels
from appswitch.control.resources.catalog import Catalog, addresses, alone
from appswitch.model import Protocol
from appswitch.resources import Reference, Resource, ServicePort, VService

ServiceName = Callable[[int, Protocol], str | None]  # what a port is called: services(5)


class Names:
    """A `control.dns.zone.Source`."""

    def __init__(self, catalog: Catalog, service_name: ServiceName) -> None:
        self._catalog = catalog
        self._service_name = service_name

    def addresses(self, name: bytes, _: Asker) -> tuple[str, ...] | None:
        """Of a vservice or a reference; None if there is none of this name."""
        return next((found for one in self._named(name) if (found := addresses(one))), None)

    def ports(self, name: bytes, proto: Protocol, service: bytes | None, _: Asker) -> tuple[int, ...]:
        """The virtual ports: of a service by its number or name, or (None) all."""
        ports = {one.port for resource in self._named(name) for one in ports_of(resource)}
        return tuple(sorted(port for port in ports if service is None or self._is_called(port, proto, service)))

    def owned(self, labels: Labels) -> bool:
        """Whether a name of in-addr.arpa or ip6.arpa is that of such an address."""
        return bool(self._pointed(labels))

    def names(self, labels: Labels, _: Asker) -> tuple[bytes, ...]:
        """What is at the address that PTR is asked for."""
        return tuple(sorted(one.name.encode() for one in self._pointed(labels)))

    def _named(self, name: bytes) -> list[Resource]:
        return self._catalog.named(name.decode("ascii", "replace"))

    def _pointed(self, labels: Labels) -> list[Resource]:
        try:
            ip = dns.reversename.to_address(dns.name.Name((*labels, b"")))
        except (dns.exception.DNSException, ValueError):
            return []
        return [*self._catalog.vservices_at(ip), *self._catalog.references_at(alone(ip))]

    def _is_called(self, port: int, proto: Protocol, service: bytes) -> bool:
        called = self._service_name(port, proto)
        return service == str(port).encode() or (called is not None and service == called.encode())


def ports_of(resource: Resource) -> tuple[ServicePort, ...]:
    """The virtual ones."""
    return resource.ports if isinstance(resource, VService | Reference) else ()
