"""[ha]: what cannot hold together in it."""

from collections.abc import Iterator

from nfqlb.config.parse import Draft
from nfqlb.config.problems import Problem, shown
from nfqlb.spelling import nearest


def two_nodes(draft: "Draft") -> Iterator[Problem]:
    """Both nodes need addresses of their own, of one IP version."""
    table = draft.ha
    if table is None:
        return
    if table.address.version != table.peer.version:
        text = f"expected IPv{table.address.version}, as in address"
        yield Problem("ha.peer", text, value=shown(str(table.peer)))
    elif table.address == table.peer:
        text = "this is the node's own address: expected that of the other node"
        yield Problem("ha.peer", text, value=shown(str(table.peer)))
    for key, own in (("address", table.address), ("peer", table.peer)):
        for place, listener in draft.listeners.items():
            if listener and own.packed in (listener.external.addr, listener.internal.addr):
                text = f"{place} has this address, which moves: expected one that stays on its node"
                yield Problem(f"ha.{key}", text, value=shown(str(own)))
                break


def moving_version(draft: "Draft") -> Iterator[Problem]:
    """VRRP speaks by one IP version, and has to advertise an address of it; groups are looked at one by one."""
    listeners = draft.listeners.values()
    if draft.ha is None or draft.ha_groups or not listeners or None in listeners:
        return
    version = draft.ha.address.version
    if all(each.external.version != version for each in listeners if each):
        text = f"no listener has IPv{version}: expected own addresses of a version that moves"
        yield Problem("ha.address", text, value=shown(str(draft.ha.address)))


def groups_of_listeners(draft: "Draft") -> Iterator[Problem]:
    """Every listener moves with one group, and every address, too."""
    names = draft.listener_names.values()
    listeners = {each.name: each for each in draft.listeners.values() if each}
    group_of: dict[str, str] = {}
    holder: dict[bytes, str] = {}
    taken: dict[int, str] = {}
    called: dict[str, str] = {}
    for place, group in draft.ha_groups.items():
        if group is None:
            continue
        other = called.setdefault(group.name, place)
        if other != place:
            yield Problem(f"{place}.name", f"this name is taken by {other}", value=shown(group.name))
        other = taken.setdefault(group.router_id, place)
        if other != place:
            text = f"{other} has this number already; on one network each group needs its own"
            yield Problem(f"{place}.router_id", text, value=shown(group.router_id))
        advertised = False
        for index, name in enumerate(group.listeners):
            at = f"{place}.listeners[{index}]"
            if name not in names:
                yield Problem(at, "no listener has this name", value=shown(name), nearest=nearest(name, names))
            elif (other := group_of.setdefault(name, place)) != place:
                yield Problem(at, f"{other} has this listener already", value=shown(name))
            elif name in listeners:
                for socket in {listeners[name].external, listeners[name].internal}:
                    if (other := holder.setdefault(socket.addr, place)) != place:
                        text = f"its address {socket.host} moves with {other}: listeners of one address need one group"
                        yield Problem(at, text, value=shown(name))
            if (listener := listeners.get(name)) and draft.ha and listener.external.version == draft.ha.address.version:
                advertised = True
        if draft.ha and not advertised and set(group.listeners) <= set(listeners):
            text = f"expected a listener of IPv{draft.ha.address.version}, as [ha] address, which VRRP speaks by"
            yield Problem(f"{place}.listeners", text)
    if draft.ha_groups and None not in draft.ha_groups.values():
        for place, listener in draft.listeners.items():
            if listener and listener.name not in group_of:
                text = "no [[ha.group]] has this listener, so its addresses would not move"
                yield Problem(f"{place}.name", text, value=shown(listener.name))
