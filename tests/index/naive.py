"""The index as one would write it in an afternoon: dicts and sets. The oracle of the tests."""


class BlockError(Exception):
    """The event does not fit."""


class Node:
    def __init__(self, parent, tokens, name):
        self.parent, self.tokens, self.name = parent, tokens, name
        self.children = {}
        self.workers = set()
        self.edge = True  # it starts a run
        self.closed = False  # the run ends here for good, as a second child came


class NaiveIndex:
    """Positions are nodes of a tree; each worker knows nodes by name.

    The first name at a position stays. A name that a worker stored at several positions means the latest; when that one
    is gone, it means the first position that got the name, if the worker still holds it. A worker that stored a block
    under another name than the first one cannot remove it by name, but can hang blocks below it.
    """

    def __init__(self, aliases=False):
        self.root = Node(None, None, None)
        self.first = {}  # name -> the node that got it first and still lives
        self.names = {}  # worker -> {name: node}: names that do not mean first[name]
        self.foreign = {}  # worker -> {node: the name it used}
        self.aliases = aliases

    def lookup(self, worker, name, removing=False):
        node = self.names.get(worker, {}).get(name)
        if node is not None and not (removing and not self.aliases and node.name != name):
            return node
        node = self.first.get(name)
        if node is not None and worker in node.workers and not self.is_foreign(worker, node):
            return node
        raise BlockError(name)

    def is_foreign(self, worker, node):
        used = self.foreign.get(worker, {}).get(node)
        return used is not None and used[1]

    def stored(self, worker, parent, blocks):
        node = self.root if parent is None else self.lookup(worker, parent)
        if parent is not None and blocks and blocks[0][0] == parent:
            raise BlockError("own parent")
        for name, tokens in blocks:
            child = node.children.get(tokens)
            if child is None:
                child = Node(node, tokens, name)
                if node is not self.root:
                    child.edge = bool(node.children) or node.closed
                    node.closed = node.closed or bool(node.children)
                    for other in node.children.values():
                        other.edge = True
                node.children[tokens] = child
                self.first.setdefault(name, child)
            names = self.names.setdefault(worker, {})
            used = self.foreign.setdefault(worker, {})
            if child.name == name:
                if child in used and used[child][1]:  # now it knows the real name
                    used[child] = (used[child][0], False)
                if self.first.get(name) is child:
                    names.pop(name, None)
                else:
                    names[name] = child
            else:
                is_foreign = worker not in child.workers
                if child in used:
                    is_foreign = used[child][1]
                    if names.get(used[child][0]) is child:
                        del names[used[child][0]]
                used[child] = (name, is_foreign)
                names[name] = child
            child.workers.add(worker)
            node = child

    def drop(self, worker, node):
        node.workers.discard(worker)
        names = self.names.get(worker, {})
        used = self.foreign.get(worker, {}).pop(node, None)
        for name in {node.name, used[0] if used else node.name}:
            if names.get(name) is node:
                del names[name]

    def release(self, node):
        while node is not self.root and not node.workers and not node.children:
            del node.parent.children[node.tokens]
            if self.first.get(node.name) is node:
                del self.first[node.name]
            node = node.parent

    def drop_run(self, worker, node):
        while True:
            self.drop(worker, node)
            following = [child for child in node.children.values() if not child.edge and worker in child.workers]
            if not following:
                break
            node = following[0]
        self.release(node)

    def removed(self, worker, names):
        failed = None
        for name in names:
            try:
                self.drop_run(worker, self.lookup(worker, name, removing=True))
            except BlockError as error:
                failed = failed or error
        if failed:
            raise failed

    def cleared(self, worker):
        for node in list(self.walk()):
            if worker in node.workers:
                self.drop(worker, node)
                self.release(node)

    def find(self, sequence, early_exit=False):
        scores, node, active = {}, self.root, None
        for depth, tokens in enumerate(sequence):
            node = node.children.get(tokens)
            if node is None or (early_exit and depth > 0 and node.edge and len(active) == 1):
                break
            active = set(node.workers) if active is None else active & node.workers
            for worker in active:
                scores[worker] = depth + 1
        return scores

    def walk(self):
        todo = list(self.root.children.values())
        while todo:
            node = todo.pop(0)
            yield node
            todo.extend(node.children.values())

    def held(self):
        count = {}
        for node in self.walk():
            for worker in node.workers:
                count[worker] = count.get(worker, 0) + 1
        return count

    def dump(self):
        return [(worker, node.parent.name, node.name, node.tokens) for node in self.walk() for worker in node.workers]
