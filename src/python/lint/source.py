"""What the text of a plugin shows: mistakes that Python itself is content with.

pydisk runs this when it loads a plugin, in a namespace of its own, and calls
findings(). Nothing of the plugin is called. Every rule is about what nbdkit
makes of a plugin, so the plugin is right or wrong everywhere alike.
"""

import ast
import difflib

# Of nbdkit's plugins in C; in Python nobody calls them.
ONLY_IN_C = {
    "load": "is never called: what stands at the top level runs at this time",
    "unload": "is never called: `cleanup` is the last callback",
    "config_help": "is never asked for: only plugins in C have it",
    "magic_config_key": "is never asked for: only plugins in C have it",
}
# What stops the event loop, and what does not.
BLOCKING = {
    "time.sleep": "await asyncio.sleep",
    "nbdkit.nanosleep": "await asyncio.sleep",
    "subprocess.run": "await asyncio.create_subprocess_exec",
    "urllib.request.urlopen": "await asyncio.to_thread",
    "requests.get": "await asyncio.to_thread",
}
LEVELS = {"can_fua": "FUA", "can_cache": "CACHE"}


def findings(source, defined, callbacks, version):
    """(line, name, text) of everything that looks like a mistake.

    defined: the callbacks that the plugin has, by name, each with whether it
    can be called; callbacks: the names of all that exist.
    """
    script = Script(ast.parse(source), defined, callbacks, version)
    found = [item for rule in RULES for item in rule(script)]
    return sorted(set(found))


class Script:
    """The parsed plugin, and what the rules ask about it."""

    def __init__(self, tree, defined, callbacks, version):
        self.tree = tree
        self.defined = defined
        self.callbacks = callbacks
        self.version = version
        self.functions = [
            node for node in tree.body
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
        self.used = {
            node.id for node in ast.walk(tree)
            if isinstance(node, ast.Name)
            and isinstance(node.ctx, (ast.Load, ast.Del))}

    def has(self, name):
        return self.defined.get(name, False)

    def function(self, name):
        """The top-level function that is this callback."""
        if not self.has(name):
            return None
        named = [node for node in self.functions if node.name == name]
        # What a decorator makes of it is not to be seen here.
        return named[-1] if named and not named[-1].decorator_list else None

    def assigned(self):
        """(line, name) of the variables of the top level."""
        for node in self.tree.body:
            targets = []
            if isinstance(node, ast.Assign):
                targets = node.targets
            elif isinstance(node, ast.AnnAssign) and node.value:
                targets = [node.target]
            for target in targets:
                if isinstance(target, ast.Name):
                    yield node.lineno, target.id


def own(function):
    """The nodes of a function, without those of functions inside it."""
    waiting = list(function.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef,
                                 ast.Lambda, ast.ClassDef)):
            waiting.extend(ast.iter_child_nodes(node))


def is_generator(function):
    return any(isinstance(node, (ast.Yield, ast.YieldFrom))
               for node in own(function))


def returns(function):
    """The values that a function returns; None for a bare return."""
    for node in own(function):
        if isinstance(node, ast.Return):
            yield node.lineno, node.value


def shown(node):
    return "`" + ast.unparse(node) + "`"


def constant(node):
    """Whether a node is a literal whose value is known here."""
    if isinstance(node, ast.UnaryOp):
        node = node.operand
    return isinstance(node, (ast.Constant, ast.List, ast.Tuple, ast.Dict,
                             ast.Set, ast.JoinedStr))


def booleans(script):
    """can_trim() returns 1, which is not True."""
    for name in script.callbacks:
        asks = name.startswith("can_") and name not in LEVELS
        function = script.function(name)
        if function is None or not (asks or name == "is_rotational"):
            continue
        values = list(returns(function))
        if not values and not always_raises(function):
            yield (function.lineno, name,
                   "returns nothing, which counts as False")
        for line, value in values:
            if value is None:
                yield line, name, "returns nothing, which counts as False"
            elif constant(value) and not is_bool(value):
                yield (line, name, f"returns {shown(value)}, which counts as "
                                   "False: only True counts as True")


def always_raises(function):
    return ends_raising(function.body)


def ends_raising(body):
    """Whether what comes last raises, on each way through it."""
    last = body[-1] if body else None
    if isinstance(last, ast.If):
        return ends_raising(last.body) and ends_raising(last.orelse)
    if isinstance(last, (ast.With, ast.AsyncWith)):
        return ends_raising(last.body)
    if isinstance(last, ast.Try):
        ways = [last.orelse or last.body,
                *(handler.body for handler in last.handlers)]
        return ends_raising(last.finalbody) or all(map(ends_raising, ways))
    if isinstance(last, ast.Assert):
        return isinstance(last.test, ast.Constant) and not last.test.value
    return isinstance(last, ast.Raise)


def is_bool(node):
    return isinstance(node, ast.Constant) and isinstance(node.value, bool)


def levels(script):
    """can_fua() returns None, a string, or EMULATE where nothing emulates."""
    for name, kind in LEVELS.items():
        function = script.function(name)
        if function is None:
            continue
        for line, value in returns(function):
            if value is None or constant(value) and not (
                    isinstance(value, ast.Constant)
                    and isinstance(value.value, int)):
                said = "nothing" if value is None else shown(value)
                yield (line, name,
                       f"returns {said}: a nbdkit.{kind}_ constant is needed")
            elif name == "can_fua" and emulates(value) \
                    and not script.has("flush"):
                yield (line, name, "returns FUA_EMULATE, but there is no "
                                   "`flush` to emulate it with")
        if not any(True for _ in returns(function)) \
                and not always_raises(function):
            yield (function.lineno, name,
                   f"returns nothing: a nbdkit.{kind}_ constant is needed")


def emulates(node):
    if isinstance(node, ast.Attribute):
        return node.attr == "FUA_EMULATE"
    return isinstance(node, ast.Constant) and node.value in (1, True)


def tuples(script):
    """Lists where nbdkit takes tuples only."""
    function = script.function("block_size")
    if function is not None:
        for line, value in returns(function):
            if isinstance(value, ast.List):
                yield (line, "block_size", f"returns the list {shown(value)}: "
                                           "nbdkit accepts a tuple only")
            elif value is None or constant(value) and not (
                    isinstance(value, ast.Tuple) and len(value.elts) == 3):
                said = "nothing" if value is None else shown(value)
                yield (line, "block_size", f"returns {said}: a tuple "
                       "(minimum, preferred, maximum) is needed")
    wanted = {"extents": "(offset, length, type)",
              "list_exports": "(name, description)"}
    for name, form in wanted.items():
        function = script.function(name)
        if function is None:
            continue
        for line, item in items(function):
            if isinstance(item, ast.List):
                yield (line, name,
                       f"gives the list {shown(item)}: a tuple {form} is "
                       "needed")
        if is_generator(function):
            continue
        values = list(returns(function))
        for line, value in values:
            if value is None or isinstance(value, ast.Constant):
                said = "nothing" if value is None else shown(value)
                yield line, name, f"returns {said}: an iterable is needed"
        if not values and not always_raises(function):
            yield (function.lineno, name,
                   "returns nothing: an iterable is needed")


def items(function):
    """What a function adds to the list or generator that it returns."""
    for node in own(function):
        if isinstance(node, ast.Return) and isinstance(
                node.value, (ast.List, ast.Tuple)):
            for item in node.value.elts:
                yield item.lineno, item
        elif isinstance(node, ast.Return) and isinstance(
                node.value, (ast.ListComp, ast.GeneratorExp)):
            yield node.value.elt.lineno, node.value.elt
        elif isinstance(node, ast.Yield) and node.value is not None:
            yield node.lineno, node.value
        elif isinstance(node, ast.Call) \
                and isinstance(node.func, ast.Attribute) \
                and node.func.attr == "append" and len(node.args) == 1:
            yield node.lineno, node.args[0]


def promises(script):
    """can_trim() says True, but there is no trim()."""
    needed = {"can_write": "pwrite", "can_flush": "flush",
              "can_trim": "trim", "can_zero": "zero",
              "can_extents": "extents"}
    for name, callback in needed.items():
        function = script.function(name)
        if function is None or script.has(callback):
            continue
        for line, value in returns(function):
            if is_bool(value) and value.value:
                yield (line, name,
                       f"returns True, but there is no `{callback}`")
    if not script.has("pwrite"):
        for name in ("trim", "zero"):
            function = script.function(name)
            if function is not None:
                yield (function.lineno, name, "is never called: without "
                                              "`pwrite` the disk is read-only")


def reads(script):
    """A pread of version 2 that does not fill its buffer, and the reverse."""
    function = script.function("pread")
    if function is None or not function.args.args:
        return
    if script.version == 1:
        values = [value for _, value in returns(function)]
        if all(value is None for value in values) \
                and not is_generator(function) \
                and not always_raises(function):
            yield (function.lineno, "pread",
                   "returns nothing, and API version 1 reads what it returns")
        return
    arguments = function.args.posonlyargs + function.args.args
    if len(arguments) < 2:
        return
    buf = arguments[1].arg
    if always_raises(function) or uses(function, buf):
        return
    for line, value in returns(function):
        if value is not None and not isinstance(value, ast.Constant):
            yield (line, "pread", f"returns {shown(value)}, but API version 2 "
                   f"reads what is in `{buf}`")
            return
    for node in own(function):
        if isinstance(node, ast.Name) and node.id == buf \
                and isinstance(node.ctx, ast.Store):
            yield (node.lineno, "pread", f"binds `{buf}` anew, which fills "
                   f"nothing: `{buf}[:] = ...` does")
            return
    yield (function.lineno, "pread", f"never fills `{buf}`: everything reads "
                                     "as zeroes")


def uses(function, name):
    """Whether a function does anything with a variable but ask its length."""
    lengths = {
        id(argument) for node in ast.walk(function)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        and node.func.id == "len" for argument in node.args}
    return any(
        isinstance(node, ast.Name) and node.id == name
        and isinstance(node.ctx, ast.Load) and id(node) not in lengths
        for node in ast.walk(function))


def strays(script):
    """Names that look like something that nbdkit calls or reads."""
    for function in script.functions:
        name = function.name
        if name in ONLY_IN_C and name not in script.used:
            yield function.lineno, name, ONLY_IN_C[name]
        elif unknown(script, function):
            meant = resembles(name, script.callbacks)
            if meant and not script.has(meant):
                yield (function.lineno, name, "is no callback and nothing "
                       f"uses it: is `{meant}` meant?")
    for line, name in script.assigned():
        plain = name.replace("_", "").lower()
        if name in script.defined and not script.defined[name]:
            yield (line, name, "cannot be called, so it counts as missing")
        elif name == "THREAD_MODEL" and name not in script.used:
            yield (line, name, "is never read: a function `thread_model` that "
                               "returns it is needed")
        elif plain == "apiversion" and name != "API_VERSION":
            yield line, name, "is never read: is `API_VERSION` meant?"
        elif plain.startswith("pydiskerr") and name != "PYDISK_ERRNO":
            yield line, name, "is never read: is `PYDISK_ERRNO` meant?"


def unknown(script, function):
    name = function.name
    return not (name in script.callbacks or name in script.used
                or name.startswith("_") or function.decorator_list)


def resembles(name, callbacks):
    """The callback that is meant by a name that is almost its own."""
    plain = {each.replace("_", ""): each for each in callbacks}
    same = plain.get(name.replace("_", "").lower())
    if same:
        return same
    turned = [each for each in callbacks if sorted(each) == sorted(name)]
    if turned:
        return turned[0]
    near = difflib.get_close_matches(name, callbacks, n=1, cutoff=0.83)
    return near[0] if near else None


def doubles(script):
    """Two functions of one name, of which the first is never called."""
    seen = {}
    for function in script.functions:
        name = function.name
        if name in seen and name in script.callbacks \
                and name not in script.used and not function.decorator_list:
            yield (function.lineno, name,
                   f"takes the place of the one in line {seen[name]}")
        seen[name] = function.lineno


def builtin_open(script):
    """open(path), where open is the callback."""
    if script.function("open") is None:
        return
    for function in ast.walk(script.tree):
        if not isinstance(function, ast.Call) \
                or not isinstance(function.func, ast.Name) \
                or function.func.id != "open":
            continue
        first = function.args[0] if function.args else None
        text = isinstance(first, ast.JoinedStr) or (
            isinstance(first, ast.Constant) and isinstance(first.value, str))
        if len(function.args) > 1 or function.keywords or text:
            yield (function.lineno, "open", "is the callback here: "
                   "`builtins.open` opens files")


def blocks(script):
    """time.sleep() in a coroutine, which stops all others as well."""
    for function in ast.walk(script.tree):
        if not isinstance(function, ast.AsyncFunctionDef):
            continue
        for node in own(function):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called in BLOCKING:
                yield (node.lineno, function.name, f"calls `{called}`, which "
                       "holds up every other request: "
                       f"`{BLOCKING[called]}` does not")


RULES = (booleans, levels, tuples, promises, reads, strays, doubles,
         builtin_open, blocks)
