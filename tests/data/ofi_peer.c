/* SPDX-License-Identifier: Apache-2.0
 *
 * A plain libfabric program: sends and receives messages in both directions, with nothing but
 * libfabric's own calls. Addresses are exchanged as hexadecimal bytes over stdin and stdout.
 *
 * usage: ofi_peer PROVIDER rdm|dgram NODE   (NODE empty for none)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_eq.h>
#include <rdma/fi_errno.h>
#include <rdma/fi_tagged.h>

#define SIZE 4096

static struct fid_cq *cq;
static int sent, received;
static char plain[SIZE], with_data[SIZE], tagged[SIZE];
static struct fi_context2 contexts[8];

static void must(const char *what, ssize_t result)
{
    if (result < 0) {
        fprintf(stderr, "%s: %s\n", what, fi_strerror((int)-result));
        exit(1);
    }
}

static void progress(void)
{
    struct fi_cq_tagged_entry entry;
    ssize_t count = fi_cq_read(cq, &entry, 1);

    if (count == -FI_EAGAIN)
        return;
    must("fi_cq_read", count);
    if (!(entry.flags & FI_RECV)) {
        sent++;
        return;
    }
    char *text = entry.op_context == &contexts[0]   ? plain
                 : entry.op_context == &contexts[1] ? with_data
                                                    : tagged;
    unsigned long long data = entry.flags & FI_REMOTE_CQ_DATA ? entry.data : 0;
    printf("%.*s tag %llx data %llx\n", (int)entry.len, text,
           text == tagged ? (unsigned long long)entry.tag : 0, data);
    fflush(stdout);
    received++;
}

#define POST(call)                                                                                 \
    do {                                                                                           \
        ssize_t result;                                                                            \
        while ((result = (call)) == -FI_EAGAIN)                                                    \
            progress();                                                                            \
        must(#call, result);                                                                       \
    } while (0)

int main(int argc, char **argv)
{
    struct fi_info *hints = fi_allocinfo(), *info;
    struct fi_cq_attr cq_attr = {.format = FI_CQ_FORMAT_TAGGED, .wait_obj = FI_WAIT_NONE};
    struct fi_av_attr av_attr = {.type = FI_AV_TABLE};
    struct fid_fabric *fabric;
    struct fid_domain *domain;
    struct fid_ep *ep;
    struct fid_av *av;
    unsigned char name[256];
    char line[1024];
    size_t size = sizeof name;
    fi_addr_t peer;

    if (argc != 4)
        return 2;
    int is_rdm = strcmp(argv[2], "rdm") == 0;
    const char *node = *argv[3] ? argv[3] : NULL;
    hints->caps = FI_MSG | (is_rdm ? FI_TAGGED : 0);
    hints->mode = FI_CONTEXT | FI_CONTEXT2;
    hints->ep_attr->type = is_rdm ? FI_EP_RDM : FI_EP_DGRAM;
    hints->fabric_attr->prov_name = strdup(argv[1]);
    must("fi_getinfo",
         fi_getinfo(FI_VERSION(1, 17), node, NULL, node ? FI_SOURCE : 0, hints, &info));
    must("fi_fabric", fi_fabric(info->fabric_attr, &fabric, NULL));
    must("fi_domain", fi_domain(fabric, info, &domain, NULL));
    must("fi_endpoint", fi_endpoint(domain, info, &ep, NULL));
    must("fi_cq_open", fi_cq_open(domain, &cq_attr, &cq, NULL));
    must("fi_av_open", fi_av_open(domain, &av_attr, &av, NULL));
    must("bind", fi_ep_bind(ep, &cq->fid, FI_TRANSMIT | FI_RECV));
    must("bind", fi_ep_bind(ep, &av->fid, 0));
    must("fi_enable", fi_enable(ep));
    must("fi_getname", fi_getname(&ep->fid, name, &size));
    for (size_t place = 0; place < size; place++)
        printf("%02x", name[place]);
    printf("\n");
    fflush(stdout);

    if (!fgets(line, sizeof line, stdin))
        return 1;
    for (size = 0; size < sizeof name && sscanf(line + 2 * size, "%2hhx", &name[size]) == 1; size++)
        ;
    must("fi_av_insert", fi_av_insert(av, name, 1, &peer, 0, NULL) == 1 ? 0 : -FI_EINVAL);

    int expected = is_rdm ? 3 : 1;
    POST(fi_recv(ep, plain, SIZE, NULL, FI_ADDR_UNSPEC, &contexts[0]));
    if (is_rdm) {
        POST(fi_recv(ep, with_data, SIZE, NULL, FI_ADDR_UNSPEC, &contexts[1]));
        POST(fi_trecv(ep, tagged, SIZE, NULL, FI_ADDR_UNSPEC, 0x77, 0, &contexts[2]));
    }
    POST(fi_send(ep, "plain from C", 12, NULL, peer, &contexts[3]));
    if (is_rdm) {
        POST(fi_senddata(ep, "data from C", 11, NULL, 0x1234, peer, &contexts[4]));
        POST(fi_tsend(ep, "tagged from C", 13, NULL, peer, 0x55, &contexts[5]));
    }
    while (sent < expected || received < expected)
        progress();

    must("fi_close", fi_close(&ep->fid));
    must("fi_close", fi_close(&av->fid));
    must("fi_close", fi_close(&cq->fid));
    must("fi_close", fi_close(&domain->fid));
    must("fi_close", fi_close(&fabric->fid));
    fi_freeinfo(info);
    return 0;
}
