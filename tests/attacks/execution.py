"""Pickles that would run something, by every opcode that calls, builds or imports."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tests.attacks.archives import FLOATS, MAGIC, PLAIN, PROTOCOL, SYSTEM, Record, legacy, torch_zip
from tests.attacks.case import COMMANDS, Case, holding, words
from tests.attacks.opcodes import (
    BINPERSID,
    BUILD,
    DUP,
    EMPTY_DICT,
    EMPTY_LIST,
    EMPTY_TUPLE,
    FALSE,
    MARK,
    NEWOBJ,
    NEWOBJ_EX,
    NONE,
    OBJ,
    ORDERED,
    POP,
    REDUCE,
    call,
    get,
    group,
    integer,
    mapping,
    name,
    pickled,
    put,
    sequence,
    stack_name,
    storage,
    tensor,
    text,
)

TOUCH = text("touch canary")  # in the working folder, which the harness looks at
SYSTEM_CALL = name("os", "system")
RUN = call(SYSTEM_CALL, TOUCH)

# Names that run, load, open or reach something; each called with a text.
NAMES = words("""
os.system os.popen os.execv os.spawnl os.remove os.unlink os.kill os._exit os.fork os.putenv os.startfile
posix.system nt.system subprocess.Popen subprocess.run subprocess.check_output commands.getoutput popen2.popen2
builtins.eval builtins.exec builtins.compile builtins.open builtins.getattr builtins.setattr builtins.__import__
builtins.input builtins.breakpoint builtins.globals builtins.vars builtins.type builtins.map builtins.print
__builtin__.eval __builtin__.execfile __builtin__.apply __builtin__.file __builtin__.reload __builtins__.eval
importlib.import_module importlib.__import__ imp.load_source runpy.run_path runpy.run_module
pkgutil.resolve_name pickle.loads _pickle.loads cPickle.loads marshal.loads shelve.open dbm.open
types.FunctionType types.CodeType types.ModuleType functools.partial functools.reduce operator.attrgetter
operator.methodcaller operator.itemgetter itertools.starmap copyreg.add_extension copyreg.pickle ctypes.CDLL
ctypes.cdll _ctypes.dlopen code.interact codeop.compile_command pty.spawn timeit.timeit cProfile.run profile.run
pdb.run bdb.Bdb trace.Trace doctest.debug_script unittest.main webbrowser.open socket.socket
socket.create_connection urllib.request.urlopen http.client.HTTPConnection ftplib.FTP smtplib.SMTP
telnetlib.Telnet xmlrpc.client.ServerProxy ssl.get_server_certificate asyncio.run
asyncio.create_subprocess_shell multiprocessing.Process multiprocessing.util.spawnv_passfds
concurrent.futures.ProcessPoolExecutor threading.Thread _thread.start_new_thread signal.alarm sys.exit
sys.settrace shutil.rmtree shutil.copy tempfile.mktemp io.open codecs.open io.FileIO fileinput.input
linecache.getlines zipfile.ZipFile tarfile.open zipimport.zipimporter sqlite3.connect logging.config.fileConfig
distutils.spawn.spawn distutils.file_util.write_file lib2to3.main.main idlelib.pyshell.main ensurepip.bootstrap
pip.main pip._internal.main setuptools.setup pkg_resources.load_entry_point venv.create
test.support.run_unittest pydoc.pipepager pydoc.tempfilepager turtle.mainloop tkinter.Tk antigravity.geohash
this.s sre_compile.compile torch.load torch.save torch.hub.load torch.hub.load_state_dict_from_url
torch.jit.load torch.package.PackageImporter torch.storage._load_from_bytes torch.serialization.load
torch._C._jit_pass_onnx torch.ops.load_library torch.utils.cpp_extension.load_inline
torch.utils._config_module.load_config torch._dynamo.guards.GuardBuilder.get torch.utils.collect_env.run
torch.utils.bottleneck.__main__.run_autograd_prof torch.classes.load_library
torch.distributed.rpc.internal._deserialize torch.fx.graph_module.reduce_graph_module
torch._utils._import_dotted_name torch._inductor.codecache.compile_file torch._utils._flatten_dense_tensors
torch.nn.Linear torch.Tensor.numpy torch._utils.x torch.testing._internal.common_utils.shell
torch.distributed.launcher.api.launch_agent numpy.load numpy.fromfile numpy.memmap numpy.loadtxt numpy.save
numpy.lib.npyio.load numpy.vectorize numpy.testing._private.utils.runstring numpy.f2py.crackfortran.myeval
numpy.distutils.exec_command.exec_command numpy.ctypeslib.load_library numpy.core.multiarray.fromfile
numpy.apply_along_axis
""")

# Functions of other packages: what they would return can't be told.
FUNCTIONS = words("""
transformers.dynamic_module_utils.get_class_from_dynamic_module fairseq.utils.import_user_module
fairseq.checkpoint_utils.load_model_ensemble fairseq.dataclass.utils.convert_namespace_to_omegaconf
omegaconf._utils.get_yaml_loader fairseq.data.dictionary.exec_ fairseq.meters.time joblib.load dill.loads
cloudpickle.loads yaml.load yaml.unsafe_load pandas.read_pickle pandas.eval sklearn.utils._joblib.load
tensorflow.io.read_file keras.models.load_model jax.pure_callback sympy.sympify IPython.start_ipython
pytest.main py.std nltk.data.load spacy.load huggingface_hub.hf_hub_download requests.get __main__.payload
mine.run
""")

# Names that are no plain names: a way around a list of plain ones.
HIDDEN = (
    *(("os", "system.__call__"), ("collections", "OrderedDict.__init__.__globals__"), ("argparse", "_sys.modules")),
    *(("argparse", "_os.system"), ("collections.abc", "sys.modules"), ("torch", "_utils.os.system"), ("os ", "system")),
    *(("os\0", "system"), ("", "system"), ("os", ""), (".os", "system"), ("os.", "system"), ("o\x1b[31ms", "system")),
    *(("\uff4f\uff53", "system"), ("argparse", "Namespace.__class__"), ("builtins", "eval\u200b"), ("a" * 2000, "b")),
    *(("__main__\n", "x"), ("os/../os", "system"), ("torch._utils", "_rebuild_tensor_v2.__globals__")),
)


def split(full: str) -> tuple[str, str]:
    """Module and name."""
    module, _, attribute = full.rpartition(".")
    return module, attribute


# Ways to make a call, each of `os.system`.
ROUTES = {
    "GLOBAL and REDUCE": RUN,
    "STACK_GLOBAL and REDUCE": call(stack_name("os", "system"), TOUCH),
    "STACK_GLOBAL of memoised text": (
        *(text("os"), put(1), POP, text("system"), put(2), POP, get(1), get(2), b"\x93", group(TOUCH), REDUCE),
    ),
    "a name from the memo": (SYSTEM_CALL, put(7), POP, get(7), group(TOUCH), REDUCE),
    "a name that was doubled": (SYSTEM_CALL, DUP, group(TOUCH), REDUCE, POP),
    "INST": (MARK, TOUCH, b"ios\nsystem\n"),
    "OBJ": (MARK, SYSTEM_CALL, TOUCH, OBJ),
    "NEWOBJ": (SYSTEM_CALL, group(TOUCH), NEWOBJ),
    "NEWOBJ_EX": (SYSTEM_CALL, group(TOUCH), EMPTY_DICT, NEWOBJ_EX),
    "a result that is thrown away": (RUN, POP, NONE),
    "a result that is thrown away with its group": (MARK, RUN, b"1", NONE),
    "a mention alone": (SYSTEM_CALL, POP, NONE),
    "copyreg._reconstructor": call(name("copyreg", "_reconstructor"), SYSTEM_CALL, name("builtins", "object"), NONE),
    "copyreg.__newobj__": call(name("copyreg", "__newobj__"), SYSTEM_CALL, TOUCH),
    "a state for a function": (SYSTEM_CALL, mapping(("__code__", NONE)), BUILD),
    "a state for torch's own function": (name("torch._utils", "_rebuild_tensor_v2"), EMPTY_DICT, BUILD),
    "slots of torch's own function": (
        *(name("torch._utils", "_rebuild_tensor_v2"), group(NONE, mapping(("__defaults__", NONE))), BUILD),
    ),
    "items of a class": (name("collections", "OrderedDict"), text("a"), NONE, b"s"),
    "appending to a class": (name("collections", "deque"), NONE, b"a"),
    "a defaultdict of os.system": call(name("collections", "defaultdict"), SYSTEM_CALL),
    "a call of a result": call(call(name("collections", "OrderedDict")), TOUCH),
    "a call of text": call(text("os.system"), TOUCH),
    "a call of a tensor": call(tensor(), TOUCH),
    "a call with a list": (name("collections", "OrderedDict"), EMPTY_LIST, REDUCE),
    "EXT1": (b"\x82\x01", group(TOUCH), REDUCE),
    "EXT2": (b"\x83\x01\x00", group(TOUCH), REDUCE),
    "EXT4": (b"\x84\x01\x00\x00\x00", group(TOUCH), REDUCE),
    "a persistent id in text": b"Pos.system\n",
    "a persistent id that is a call": (RUN, BINPERSID),
    "a persistent id with a call in it": (group(text("storage"), RUN, text("0"), text("cpu"), integer(4)), BINPERSID),
    "a module as a persistent id": (group(text("module"), SYSTEM_CALL, text("x.py"), TOUCH), BINPERSID),
    "an out-of-band buffer": b"\x97",
    "a read-only buffer": (NONE, b"\x98"),
    "_codecs.encode to another codec": call(name("_codecs", "encode"), TOUCH, text("rot13")),
    "_codecs.encode of a name": call(name("_codecs", "encode"), SYSTEM_CALL, text("latin1")),
    "a tensor's hooks": call(
        name("torch._utils", "_rebuild_tensor_v2"), *(storage(), integer(0), group(), group(), FALSE), RUN
    ),
    "_rebuild_from_type_v2 of os.system": call(
        name("torch._tensor", "_rebuild_from_type_v2"), *(SYSTEM_CALL, name("torch", "Tensor"), group(TOUCH), NONE)
    ),
    "_rebuild_wrapper_subclass of os.system": call(name("torch._utils", "_rebuild_wrapper_subclass"), SYSTEM_CALL),
    "a partial": call(call(name("functools", "partial"), SYSTEM_CALL), TOUCH),
    "getattr of a module": call(call(name("builtins", "getattr"), name("os", "path"), text("system")), TOUCH),
    "__setstate__ of an instance": (
        *(name("argparse", "Namespace"), EMPTY_TUPLE, NEWOBJ, mapping(("__setstate__", SYSTEM_CALL)), BUILD),
        *(TOUCH, BUILD),
    ),
    "a function of another package by INST": (MARK, TOUCH, b"imine\nrun\n"),
    "a function of another package by OBJ": (MARK, name("mine", "run"), TOUCH, OBJ),
    "Paddle's eval with another text": call(name("builtins", "eval"), TOUCH, mapping(("data", NONE))),
}


def _body(parts: bytes | tuple[bytes, ...]) -> bytes:
    return parts if isinstance(parts, bytes) else b"".join(parts)


def _refused(what: str, wrong: str, data: bytes, kinds: frozenset[str] = frozenset()) -> Case:
    commands = ("inspect", "convert") if what.startswith(("name-", "function-", "hidden-")) else COMMANDS
    case = Case(f"execution/{what}", wrong, "refused", holding(data), kinds=kinds)
    return replace(case, commands=commands, forms=False)


UNSAFE = frozenset({"unsafe"})


def _routes() -> Iterator[Case]:
    for number, (route, parts) in enumerate(ROUTES.items()):
        data = pickled(mapping(("w", tensor()), ("x", _body(parts))), 4)
        yield _refused(f"route-{number:02}-zip", route, torch_zip(data))
        yield _refused(f"route-{number:02}-legacy", f"{route}, in a legacy file", legacy(data))


def _names() -> Iterator[Case]:
    for full in NAMES:
        data = pickled(mapping(("w", tensor()), ("x", call(name(*split(full)), TOUCH))))
        yield _refused(f"name-{full}", f"calls {full}", torch_zip(data), UNSAFE)
    for full in FUNCTIONS:
        data = pickled(mapping(("w", tensor()), ("x", call(name(*split(full)), TOUCH))))
        yield _refused(f"function-{full}", f"calls {full}, a function of another package", torch_zip(data), UNSAFE)
    for number, (module, attribute) in enumerate(HIDDEN):
        data = pickled(mapping(("w", tensor()), ("x", call(stack_name(module, attribute), TOUCH))), 4)
        wrong = f"calls {(module[:20], attribute[:40])!a}, which is no plain name"
        yield _refused(f"hidden-{number:02}", wrong, torch_zip(data), UNSAFE)


def _places() -> Iterator[Case]:
    deep = sequence(sequence(group(mapping(("a", sequence(RUN))))))
    places = {
        "the whole pickle": RUN,
        "a value of the state dict": mapping(("w", RUN)),
        "a key": EMPTY_DICT + RUN + tensor() + b"s",
        "a key of a set": b"\x8f" + MARK + RUN + b"\x90",
        "deep inside": mapping(("w", tensor()), ("x", deep)),
        "an optimizer's state": mapping(("w", tensor()), ("last_optimizer_state", mapping(("state", RUN)))),
        "a config": mapping(("model", mapping(("w", tensor()))), ("cfg", RUN)),
        "a tensor's size": call(
            name("torch._utils", "_rebuild_tensor_v2"), *(storage(), integer(0), RUN, group(), FALSE, ORDERED)
        ),
        "metadata of a state dict": ORDERED + mapping(("_metadata", RUN)) + BUILD,
    }
    for number, (place, body) in enumerate(places.items()):
        for protocol in (2, 4, 5):
            data = torch_zip(pickled(body, protocol))
            yield _refused(f"place-{number}-protocol-{protocol}", f"os.system as {place}", data)
    yield _refused("protocol-0", "os.system in a pickle without a protocol", torch_zip(pickled(RUN, 0)))
    yield _refused("behind-stop", "a second pickle behind the end of the first", torch_zip(PLAIN + pickled(RUN)))
    ran = pickled(RUN)
    yield _refused("legacy-magic", "os.system before the magic number", legacy(magic=ran + MAGIC))
    yield _refused("legacy-protocol", "os.system as the protocol", legacy(protocol=ran))
    yield _refused("legacy-system", "os.system as the system information", legacy(system=ran))
    yield _refused("legacy-keys", "os.system as the list of keys", legacy(keys=ran))
    yield _refused("legacy-tail", "os.system behind the storages", legacy(tail=ran))
    yield _refused("legacy-second", "a second pickle after the list of keys", legacy(keys=SYSTEM + ran))
    yield _refused("legacy-protocol-0", "a legacy file in text form", b"L119547037146038801333356L\n." + PROTOCOL + ran)
    for protocol in (2, 3, 4, 5):
        kinds = frozenset({"unsupported", "unsafe"})
        yield _refused(f"bare-{protocol}", "a bare pickle that runs os.system", pickled(RUN, protocol), kinds)
    yield _refused("bare-0", "a bare pickle in text form", b"cos\nsystem\n(S'touch canary'\ntR.")
    paddle = call(name("builtins", "eval"), text("__import__('os').system('touch canary')"), mapping(("data", NONE)))
    for protocol in (2, 4):
        yield _refused(f"paddle-eval-{protocol}", "Paddle's eval with code", pickled(mapping(("w", paddle)), protocol))


def _torchscript() -> Iterator[Case]:
    code = Record("archive/code/__torch__.py", b"import os\nos.system('touch canary')\n")
    debug = Record("archive/code/__torch__.py.debug_pkl", pickled(RUN))
    constants = Record("archive/constants.pkl", pickled(RUN))
    module = pickled(name("__torch__.m", "M") + EMPTY_TUPLE + NEWOBJ + mapping(("w", tensor())) + BUILD)
    for what, wrong, record in (
        ("torchscript", "a TorchScript archive with code that runs, which is never read", code),
        ("torchscript-debug", "a TorchScript archive whose debug records run, which are never read", debug),
    ):
        yield Case(f"execution/{what}", wrong, "read", holding(torch_zip(module, more=[record])), forms=False)
    yield _refused("torchscript-constants", "constants that run", torch_zip(module, more=[constants]))
    yield _refused("torchscript-all", "everything runs", torch_zip(pickled(RUN), more=[code, debug, constants]))
    yield _refused("torchscript-data", "a pickle that runs among code", torch_zip(pickled(RUN), more=[code]))


def _quiet() -> Iterator[Case]:
    """Payloads where nothing reads them: they must not be read either. Records outside of the archive's folder are
    refused, as by torch."""
    for where in ("archive/extra.pkl", "archive/.data/x", "archive/data.pkl.bak"):
        wrong = f"a payload in the record {where}, which is nobody's"
        data = torch_zip(more=[Record(where, pickled(RUN))])
        yield Case(f"execution/record-{where.replace('/', '-')}", wrong, "read", holding(data), truth="torch")
    for number, where in enumerate(("../../evil.pkl", "/etc/cron.d/x", "x/y.pyc", "archive/../../x", "..\\x", "C:\\x")):
        data = torch_zip(more=[Record(where, pickled(RUN))])
        yield _refused(f"record-outside-{number}", f"a record at {where}", data)
    two = ("w", tensor()), ("v", tensor((2, 2), (1, 2)))
    inert = mapping(*two, ("note", text("__import__('os').system('touch canary')")))
    yield Case("execution/text", "code as a text", "read", holding(torch_zip(pickled(inert))), truth="torch")
    payload = pickled(RUN)
    nested = mapping(*two, ("note", b"C" + bytes((len(payload),)) + payload))
    yield Case("execution/bytes", "a pickle that runs, as bytes", "read", holding(torch_zip(pickled(nested, 4))))
    stub = name("mine.models", "Evil") + EMPTY_TUPLE + NEWOBJ + mapping(("cmd", TOUCH)) + BUILD
    data = torch_zip(pickled(mapping(*two, ("x", stub))), {"0": FLOATS})
    yield Case("execution/class", "an instance of an unknown class", "read", holding(data))


CASES = (*_routes(), *_names(), *_places(), *_torchscript(), *_quiet())
