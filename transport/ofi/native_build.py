# SPDX-License-Identifier: Apache-2.0
"""Builds `i2o.transport.ofi._libfabric`: libfabric's own functions, callable from Python.

libfabric exports hardly any function: what a program calls is inline in its headers and goes
through tables of the opened object. So the headers must be compiled in, and this module names what
of them is used, under libfabric's names. What is added begins with `i2o_`. The same file of machine
code holds a second module, `_books`, whose source is in `native_books.py` and `native_posters.py`.

The extension is optional; `setup.py` builds it only where libfabric's headers are.
"""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path
from runpy import run_path

import cffi

_DECLARATIONS = """
typedef uint64_t fi_addr_t;

struct fid { size_t fclass; void *context; ...; };
struct fid_fabric { struct fid fid; ...; };
struct fid_domain { struct fid fid; ...; };
struct fid_ep { struct fid fid; ...; };
struct fid_pep { struct fid fid; ...; };
struct fid_cq { struct fid fid; ...; };
struct fid_eq { struct fid fid; ...; };
struct fid_av { struct fid fid; ...; };
struct fid_mc { struct fid fid; fi_addr_t fi_addr; ...; };

struct fi_tx_attr {
    uint64_t caps; uint64_t op_flags; uint64_t msg_order;
    size_t inject_size; size_t size; size_t iov_limit; ...;
};
struct fi_rx_attr { uint64_t caps; uint64_t op_flags; size_t size; size_t iov_limit; ...; };
struct fi_ep_attr { int type; size_t max_msg_size; size_t msg_prefix_size; ...; };
struct fi_domain_attr {
    char *name; int threading; int av_type; int mr_mode; int resource_mgmt;
    size_t cq_data_size; ...;
};
struct fi_fabric_attr { char *name; char *prov_name; uint32_t prov_version; ...; };
struct fi_info {
    struct fi_info *next; uint64_t caps; uint64_t mode; uint32_t addr_format;
    size_t src_addrlen; size_t dest_addrlen; void *src_addr; void *dest_addr; struct fid *handle;
    struct fi_tx_attr *tx_attr; struct fi_rx_attr *rx_attr; struct fi_ep_attr *ep_attr;
    struct fi_domain_attr *domain_attr; struct fi_fabric_attr *fabric_attr; ...;
};
struct fi_av_attr { int type; size_t count; ...; };
struct fi_cq_attr { size_t size; int format; int wait_obj; ...; };
struct fi_eq_attr { size_t size; int wait_obj; ...; };
struct fi_context2 { ...; };
struct iovec { void *iov_base; size_t iov_len; };
struct fi_msg {
    const struct iovec *msg_iov; void **desc; size_t iov_count; fi_addr_t addr; void *context;
    uint64_t data; ...;
};
struct fi_msg_tagged {
    const struct iovec *msg_iov; void **desc; size_t iov_count; fi_addr_t addr; uint64_t tag;
    uint64_t ignore; void *context; uint64_t data; ...;
};
struct fi_cq_tagged_entry {
    void *op_context; uint64_t flags; size_t len; void *buf; uint64_t data; uint64_t tag; ...;
};
struct fi_cq_err_entry {
    void *op_context; uint64_t flags; size_t len; void *buf; uint64_t data; uint64_t tag;
    size_t olen; int err; int prov_errno; void *err_data; size_t err_data_size; ...;
};
struct fi_eq_entry { struct fid *fid; void *context; uint64_t data; ...; };
struct fi_eq_cm_entry { struct fid *fid; struct fi_info *info; ...; };
struct fi_eq_err_entry {
    struct fid *fid; int err; int prov_errno; void *err_data; size_t err_data_size; ...;
};

#define FI_MAJOR_VERSION ...
#define FI_MINOR_VERSION ...
#define FI_SOURCE ...
#define FI_CONTEXT ...
#define FI_CONTEXT2 ...
#define FI_ORDER_SAS ...
static const int FI_THREAD_SAFE;
static const int FI_AV_TABLE;
static const int FI_RM_ENABLED;
static const int FI_WAIT_NONE;
static const int FI_WAIT_FD;
static const int FI_GETWAIT;
static const int FI_CQ_FORMAT_TAGGED;
static const int FI_SOCKADDR_IN;
static const int FI_SOCKADDR_IN6;
static const int FI_ADDR_STR;
static const int FI_CONNREQ;
static const int FI_CONNECTED;
static const int FI_SHUTDOWN;
static const int FI_JOIN_COMPLETE;
static const int FI_OPT_ENDPOINT;
static const int FI_OPT_MIN_MULTI_RECV;

uint32_t fi_version(void);
const char *fi_strerror(int errnum);
int i2o_getinfo(uint32_t version, const char *node, const char *service, uint64_t flags,
                const struct fi_info *hints, struct fi_info **info);
void fi_freeinfo(struct fi_info *info);
struct fi_info *fi_dupinfo(const struct fi_info *info);
int fi_fabric(struct fi_fabric_attr *attr, struct fid_fabric **fabric, void *context);
int fi_domain(struct fid_fabric *fabric, struct fi_info *info, struct fid_domain **domain,
              void *context);
int fi_av_open(struct fid_domain *domain, struct fi_av_attr *attr, struct fid_av **av,
               void *context);
int fi_cq_open(struct fid_domain *domain, struct fi_cq_attr *attr, struct fid_cq **cq,
               void *context);
int fi_eq_open(struct fid_fabric *fabric, struct fi_eq_attr *attr, struct fid_eq **eq,
               void *context);
int fi_ep_bind(struct fid_ep *ep, struct fid *bfid, uint64_t flags);
int fi_pep_bind(struct fid_pep *pep, struct fid *bfid, uint64_t flags);
int fi_enable(struct fid_ep *ep);
int fi_setopt(struct fid *fid, int level, int optname, const void *optval, size_t optlen);
int fi_control(struct fid *fid, int command, void *arg);
int fi_trywait(struct fid_fabric *fabric, struct fid **fids, int count);
int fi_close(struct fid *fid);

int fi_getname(struct fid *fid, void *addr, size_t *addrlen);
int fi_av_insert(struct fid_av *av, const void *addr, size_t count, fi_addr_t *fi_addr,
                 uint64_t flags, void *context);
int fi_av_remove(struct fid_av *av, fi_addr_t *fi_addr, size_t count, uint64_t flags);
int fi_join(struct fid_ep *ep, const void *addr, uint64_t flags, struct fid_mc **mc,
            void *context);

int fi_passive_ep(struct fid_fabric *fabric, struct fi_info *info, struct fid_pep **pep,
                  void *context);
int fi_listen(struct fid_pep *pep);
int fi_connect(struct fid_ep *ep, const void *addr, const void *param, size_t paramlen);
int fi_accept(struct fid_ep *ep, const void *param, size_t paramlen);
int fi_reject(struct fid_pep *pep, struct fid *handle, const void *param, size_t paramlen);
int fi_shutdown(struct fid_ep *ep, uint64_t flags);
ssize_t fi_eq_read(struct fid_eq *eq, uint32_t *event, void *buf, size_t len, uint64_t flags);
ssize_t fi_eq_readerr(struct fid_eq *eq, struct fi_eq_err_entry *buf, uint64_t flags);

ssize_t fi_cq_read(struct fid_cq *cq, void *buf, size_t count);
ssize_t fi_cq_readfrom(struct fid_cq *cq, void *buf, size_t count, fi_addr_t *src_addr);
ssize_t fi_cq_readerr(struct fid_cq *cq, struct fi_cq_err_entry *buf, uint64_t flags);
const char *fi_cq_strerror(struct fid_cq *cq, int prov_errno, const void *err_data, char *buf,
                           size_t len);

ssize_t fi_send(struct fid_ep *ep, const void *buf, size_t len, void *desc, fi_addr_t dest_addr,
                void *context);
ssize_t fi_sendmsg(struct fid_ep *ep, const struct fi_msg *msg, uint64_t flags);
ssize_t fi_recv(struct fid_ep *ep, void *buf, size_t len, void *desc, fi_addr_t src_addr,
                void *context);
ssize_t fi_recvmsg(struct fid_ep *ep, const struct fi_msg *msg, uint64_t flags);
ssize_t fi_tsend(struct fid_ep *ep, const void *buf, size_t len, void *desc, fi_addr_t dest_addr,
                 uint64_t tag, void *context);
ssize_t fi_tsendmsg(struct fid_ep *ep, const struct fi_msg_tagged *msg, uint64_t flags);
ssize_t fi_trecvmsg(struct fid_ep *ep, const struct fi_msg_tagged *msg, uint64_t flags);
ssize_t fi_cancel(struct fid *fid, void *context);

int i2o_endpoint(struct fid_domain *domain, struct fi_info *info, struct fid_ep **ep);
int i2o_ticker(void);
int i2o_tick(int ticker, long period_ns);
"""

_SOURCE = r"""
#include <signal.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <time.h>
#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_eq.h>
#include <rdma/fi_errno.h>
#include <rdma/fi_tagged.h>

/* fi_getinfo and fi_endpoint, but the process keeps its signal handlers. Providers put theirs in:
   shm one that removes every segment of the process even when the signal is handled and the process
   goes on, as at a KeyboardInterrupt. */
struct handlers {
    struct sigaction of[32];
};

static void keep_handlers(struct handlers *kept)
{
    for (int number = 1; number < 32; number++)
        sigaction(number, NULL, &kept->of[number]);
}

static void put_back(const struct handlers *kept)
{
    for (int number = 1; number < 32; number++)
        if (number != SIGKILL && number != SIGSTOP)
            sigaction(number, &kept->of[number], NULL);
}

static int i2o_getinfo(uint32_t version, const char *node, const char *service, uint64_t flags,
                       const struct fi_info *hints, struct fi_info **info)
{
    struct handlers kept;
    keep_handlers(&kept);
    int result = fi_getinfo(version, node, service, flags, hints, info);
    put_back(&kept);
    return result;
}

static int i2o_endpoint(struct fid_domain *domain, struct fi_info *info, struct fid_ep **ep)
{
    struct handlers kept;
    keep_handlers(&kept);
    int result = fi_endpoint(domain, info, ep, NULL);
    put_back(&kept);
    return result;
}

/* Python has no timerfd before 3.13. */
static int i2o_ticker(void)
{
    return timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
}

static int i2o_tick(int ticker, long period_ns)
{
    struct itimerspec times = {{0, period_ns}, {0, period_ns}};
    return timerfd_settime(ticker, 0, &times, NULL);
}
"""

_HEADER = Path("rdma", "fabric.h")
_FOLDERS = ("/usr/include", "/usr/local/include")
_PATH_VARIABLES = ("CPATH", "C_INCLUDE_PATH")


def can_be_built() -> bool:
    """Return whether libfabric's headers are where a compiler looks for them."""
    folders = list(_FOLDERS)
    for variable in _PATH_VARIABLES:
        folders += filter(None, os.environ.get(variable, "").split(os.pathsep))
    return any(Path(folder, _HEADER).is_file() for folder in folders)


builder = cffi.FFI()
builder.cdef(_DECLARATIONS)


def _second_module() -> str:
    """Return it; a build script is in no package, so it cannot import the parts."""
    books, posters = (
        run_path(str(Path(__file__).with_name(f"native_{name}.py")))
        for name in ("books", "posters")
    )
    return "".join((books["BOOKS"], posters["SOURCE"], books["MODULE"]))


_HAS_STABLE_ABI = not sysconfig.get_config_var("Py_GIL_DISABLED")
builder.set_source(
    "i2o.transport.ofi._libfabric",
    _SOURCE + _second_module(),
    libraries=["fabric"],
    # the oldest Python that is supported: buffers are in its stable ABI, and not in older ones
    define_macros=[("Py_LIMITED_API", "0x030B0000")] if _HAS_STABLE_ABI else [],
    optional=True,
)
